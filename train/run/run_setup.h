// A run before its first step: the config made whole by the data, the data, the layouts and
// the expected memory.
#pragma once

#include <string>
#include <vector>

#include "attention/connectivity.h"
#include "data/open_data.h"
#include "train/config/config.h"
#include "train/run/matrix_rate.h"
#include "train/run/memory_plan.h"

namespace filigree {

struct RunSetup {
  Config config;  // vocab_size, n_classes, tokenizer, steps and warm-up filled in
  OpenedData data;
  LayerPatternsPtr patterns;
  MemoryPlan memory;
  double flops_per_token = 0;  // of a training step
  MatrixRate matrix_rate;      // of this machine
};

DataRequest data_request(const Config& config);

// Error(usage) for a device that is not in this build or a vocabulary that is too small; Error(data) if an
// evaluation would find no target. `trained_with`, `known_classes`: see DataRequest.
RunSetup set_up_run(const Config& config, std::shared_ptr<const Tokenizer> trained_with = nullptr,
                    std::vector<std::string> known_classes = {});

// The page printed at the start: device, data, size of the model, FLOPs, layouts, memory. `every_parameter`:
// the model as a table of its parameters.
std::string describe(const RunSetup& setup, bool every_parameter = false);

}  // namespace filigree
