// The lines that a person sees while a run trains: one line every log_interval steps and, on a terminal, a
// bar between them.
#pragma once

#include <cstdint>
#include <string>

#include "core/status_line.h"
#include "train/evaluate/evaluate.h"
#include "train/run/matrix_rate.h"
#include "train/run/step.h"
#include "train/run/time_left.h"

namespace filigree {

// The time and tokens of one step.
struct StepCost {
  double seconds = 0;
  double data_wait = 0;         // of them, for the loader
  double flops_per_token = 0;   // of what was computed, see model_flops_per_token
  std::int64_t peak_bytes = 0;  // of the device's memory, so far
};

class TrainLog {
 public:
  // A fraction of `matrix_rate` is printed.
  TrainLog(const RunOutline& run, std::int64_t interval, MatrixRate& matrix_rate);

  void step(const StepResult& result, const StepCost& cost);
  void evaluating(std::int64_t step, std::int64_t done, std::int64_t total);  // micro batches
  void evaluation(std::int64_t step, const Evaluation& evaluation, bool best, double seconds);
  void note(const std::string& text) { line_.note(text); }  // a line of its own
  // Before a message that a signal stopped the run.
  void interrupted() { line_.leave(); }

 private:
  void print_line(std::int64_t step, const StepResult& result, std::int64_t peak_bytes);
  void draw_bar(std::int64_t step, const std::string& loss);
  std::string time_left(std::int64_t step, double evaluated = 0) const;

  std::int64_t steps_, interval_;
  MatrixRate& matrix_rate_;
  StatusLine line_;
  TimeLeft time_left_;
  // Sums since the last line, and the rate of the newest steps.
  std::int64_t window_losses_ = 0, window_tokens_ = 0;
  double window_loss_ = 0, window_seconds_ = 0, window_wait_ = 0, window_flops_ = 0, tokens_per_second_ = 0;
  bool first_ = true;
};

// "loss 1.2345, 1.781 bits per byte"
std::string describe(const Evaluation& evaluation);

}  // namespace filigree
