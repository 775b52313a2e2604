// The weights that a new run takes over from another one (`train.init_from`): fine-tuning, and a dense model
// going on with a sparse pattern.
#pragma once

#include <string>

#include "train/checkpoint.h"
#include "train/config.h"

namespace filigree {

struct InitialWeights {
  NamedTensors weights;
  std::string special_tokens_json;  // of an imported model; its texts go on to end at the same tokens
};

// Of the checkpoint or run that config.train.init_from names. `config` is that of the new run, resolved, and
// `tokenizer` that of its data (empty: only ids are known). Error(usage) unless the model is the same but for
// what require_same_weights lets differ; Error(data) if the data's tokenizer and the
// checkpoint's are both known and differ.
InitialWeights read_initial_weights(const Config& config, const std::string& tokenizer);

}  // namespace filigree
