// Optimizer steps: what the trainer repeats, and what the memory plan runs on the meta device.
//
// A step is work of the device alone: forward and backward over the micro batches, the gradients' norm, the
// update. What differs between steps (tokens, rates, denominators) is copied into tensors that stay, results
// are read several steps late on a GPU, and there the whole step is captured as one graph.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "core/stream.h"
#include "data/loader.h"
#include "layers/transformer.h"
#include "train/run/optimizer.h"

namespace filigree {

struct StepOptions {
  std::uint64_t seed = 0;
  double clip = 0;  // 0: off
  std::int64_t micro_batches = 1;
  bool graph = false;  // capture a step and launch it again from then on, once no pattern changes; needs CUDA
  std::int64_t steps = 0;  // of the run, for the schedules of learned patterns
};

struct StepResult {
  std::int64_t step = 0;  // counts from 0
  double lr = 0;
  double loss = 0;       // mean over the targets of all micro batches; without a target there is none
  double grad_norm = 0;  // before clipping
  std::int64_t targets = 0;
  std::int64_t tokens = 0;  // without padding
};

class Stepper {
 public:
  // Both are used as long as the stepper lives.
  Stepper(Transformer& model, Optimizer& optimizer, const StepOptions& options);

  // Enqueues step number `step`. Batches of all steps have the same shapes. The gradient is that of the mean
  // loss over all targets, however they are spread over the micro batches.
  void submit(std::vector<Batch> batches, std::int64_t step, double lr);
  // The results of steps come in their order. On a GPU nullopt while only a few steps are under way, unless
  // `wait`; in any case once all have been read. Where a step's loss or a gradient is not finite: throws
  // Error(numeric) naming step and layer; the weights are those before that step, whatever was submitted
  // since.
  std::optional<StepResult> next(bool wait);

 private:
  struct Pending {
    StepResult result;
    std::vector<Batch> batches;  // to find the culprit
    std::size_t slot;
  };
  struct Slot {
    HostBuffer inputs, results;
    Event copied, done;
  };

  void make_inputs(const Batch& like);
  void upload(const Pending& pending);
  void run();
  Tensor denominator() const;
  ForwardContext context(std::int64_t micro_batch) const;
  [[noreturn]] void stop_not_finite(const Pending& pending);

  Transformer& model_;
  Optimizer& optimizer_;
  StepOptions options_;
  Device device_;
  std::vector<Batch> inputs_;  // on the device, refilled by every step
  Tensor scalars_;             // f64: the optimizer's rates, the denominator
  Tensor step_;                // u32 [1]: the number of the step's first micro batch, for dropout
  Tensor halted_, results_;    // u32 [1]; f64 [2]: loss, sum of squares
  std::vector<Slot> slots_;
  std::deque<Pending> pending_;
  std::int64_t submitted_ = 0;
  bool warm_ = false;  // a step has been run that does not differ from the next in what it launches
  std::optional<Graph> graph_;
};

}  // namespace filigree
