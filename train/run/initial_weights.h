// The weights that a new run takes over from another one (`train.init_from`): fine-tuning, and a dense model
// going on with a sparse pattern.
#pragma once

#include <string>

#include "data/open_data.h"
#include "train/config/config.h"
#include "train/record/checkpoint.h"

namespace filigree {

struct InitialWeights {
  NamedTensors weights;
  std::string special_tokens_json;  // of an imported model; its texts go on to end at the same tokens
  std::string note;                 // for the user, if not empty: see require_fitting_tokens
};

// The weights of the checkpoint or run that config.train.init_from names. `config` is that of the new run,
// resolved, and `data` what it trains on. Error(usage) unless the model is the same but for what
// require_same_weights lets differ; Error(data) as of require_fitting_tokens, or if the data's classes and
// the checkpoint's are both known and differ. Warns where the weights were trained on another split of the
// same files.
InitialWeights read_initial_weights(const Config& config, const OpenedData& data);

}  // namespace filigree
