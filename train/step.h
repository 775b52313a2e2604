// One optimizer step: what the trainer repeats, and what the memory plan runs on the meta device.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/loader.h"
#include "layers/transformer.h"
#include "train/optimizer.h"

namespace filigree {

struct StepOptions {
  std::uint64_t seed = 0;
  std::int64_t step = 0;  // counts optimizer steps from 0
  double lr = 0;
  double clip = 0;  // 0: off
};

struct StepResult {
  double loss = 0;       // mean over the targets of all micro batches
  double grad_norm = 0;  // before clipping
  std::int64_t targets = 0;
  std::int64_t tokens = 0;  // without padding
};

ModelInput model_input(const Batch& batch, const std::vector<LayoutPtr>& layouts);

// Forward and backward over the micro batches and one update. The gradient is that of the mean loss over all
// targets, however they are spread over the micro batches. Where the loss or a gradient is not finite: throws
// Error(numeric) naming step and layer, with the weights unchanged.
StepResult run_step(Transformer& model, Optimizer& optimizer, std::span<const Batch> batches,
                    const std::vector<LayoutPtr>& layouts, const StepOptions& options);

}  // namespace filigree
