// What a person sees while a run trains: one line every log_interval steps and, on a terminal, a bar between
// them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "train/evaluate.h"
#include "train/step.h"

namespace filigree {

// What one step took.
struct StepCost {
  double seconds = 0;
  double data_wait = 0;         // of them, for the loader
  double flops_per_token = 0;   // of what was computed, see model_flops_per_token
  std::int64_t peak_bytes = 0;  // of the device's memory, so far
};

class TrainLog {
 public:
  // `peak_flops` is the machine's matrix rate, of which MFU is a fraction.
  TrainLog(std::int64_t first_step, std::int64_t steps, std::int64_t interval, double peak_flops);
  ~TrainLog();

  void step(const StepResult& result, const StepCost& cost);
  void evaluation(std::int64_t step, const Evaluation& evaluation, bool best);
  void note(const std::string& text);  // a line of its own

 private:
  void print_line(std::int64_t step, const StepResult& result, std::int64_t peak_bytes);
  void draw_bar(std::int64_t step, double loss);
  void clear_bar();

  std::int64_t first_step_, steps_, interval_;
  double peak_flops_;
  bool terminal_, bar_drawn_ = false;
  // Sums since the last line, and over all steps of this process.
  std::int64_t window_steps_ = 0, window_tokens_ = 0, all_steps_ = 0;
  double window_loss_ = 0, window_seconds_ = 0, window_wait_ = 0, window_flops_ = 0, all_seconds_ = 0;
  std::chrono::steady_clock::time_point last_bar_{};
};

// "loss 1.2345, 1.781 bits per byte"
std::string describe(const Evaluation& evaluation);

}  // namespace filigree
