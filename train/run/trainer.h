// A training run from start to end: data, layouts, model, the loop, evaluation, checkpoints, resume.
#pragma once

#include <string>

#include "train/config/config.h"

namespace filigree {

struct TrainRequest {
  Config config;
  std::string resume = "auto";  // auto: go on where this run is; never: start anew; else a checkpoint file
  bool overwrite = false;       // remove the run that is in the folder
  bool dry_run = false;         // stop before the first step; write nothing
  std::string command_line;
};

// Returns the process's exit code: 0, or kExitResumable after a signal.
int train(const TrainRequest& request);

}  // namespace filigree
