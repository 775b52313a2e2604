#include "train/initial_weights.h"

#include <nlohmann/json.hpp>

#include "train/run_folder.h"
#include "train/token_ids.h"

namespace filigree {

InitialWeights read_initial_weights(const Config& config, const Vocabulary& data) {
  const std::filesystem::path path = find_checkpoint(config.train.init_from);
  CheckpointContents contents = read_checkpoint(path);
  require_same_weights(config, contents.config_yaml, path.string());
  const auto state = nlohmann::json::parse(contents.state_json, nullptr, false);
  require(state.is_object() && state.contains("tokenizer") && state["tokenizer"].is_string(),
          "{}: its state is not one of a training run", path.string());
  std::string note =
      require_fitting_tokens(data, {state["tokenizer"], config.model.vocab_size, path.string()});
  return {std::move(contents.weights), std::move(contents.special_tokens_json), std::move(note)};
}

}  // namespace filigree
