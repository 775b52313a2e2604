// How much memory a training run will take, found by running steps on the meta device: the same ops, the same
// allocator, no data.
#pragma once

#include <cstdint>
#include <vector>

#include "train/config.h"
#include "train/step.h"

namespace filigree {

struct MemoryPlan {
  std::int64_t parameters = 0;  // bytes of weights
  std::int64_t optimizer = 0;   // bytes of moments
  std::int64_t tensors = 0;     // peak that the allocator takes from the system, all tensors included
  // Expected peak: of the resident set, what it is now plus `tensors`; on a GPU, of what the process takes
  // there beside CUDA's own context.
  std::int64_t process = 0;
};

// To be called when the data and the layouts are loaded and the model is not yet made. `model` has its
// vocab_size and n_classes.
MemoryPlan plan_memory(const Config& config, const ModelConfig& model, const std::vector<LayoutPtr>& layouts);

}  // namespace filigree
