// How much memory a training run will take, found by running its steps and evaluations on the meta device:
// the same ops, the same allocator, the same graph, no data.
#pragma once

#include <cstdint>

#include "train/config/config.h"
#include "train/run/step.h"

namespace filigree {

struct MemoryPlan {
  std::int64_t parameters = 0;  // bytes of weights
  std::int64_t optimizer = 0;   // bytes of moments
  std::int64_t tensors = 0;     // peak that the allocator takes from the system, all tensors included
  // Expected peak_memory(): of the resident set, what it is now plus `tensors`; on a GPU `tensors` and
  // cuBLASLt's workspace, beside CUDA's own context.
  std::int64_t process = 0;
};

// To be called when the data is loaded, the layouts are made and the model is not. `config.model` has its
// vocab_size and n_classes. `validation`: null if the run is never evaluated.
MemoryPlan plan_memory(const Config& config, const LayerPatternsPtr& patterns, const Dataset* validation);

}  // namespace filigree
