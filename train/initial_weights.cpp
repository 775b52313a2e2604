#include "train/initial_weights.h"

#include <nlohmann/json.hpp>

#include "train/run_folder.h"

namespace filigree {

InitialWeights read_initial_weights(const Config& config, const std::string& tokenizer) {
  const std::filesystem::path path = find_checkpoint(config.train.init_from);
  CheckpointContents contents = read_checkpoint(path);
  require_same_weights(config, contents.config_yaml, path.string());
  const auto state = nlohmann::json::parse(contents.state_json, nullptr, false);
  require(state.is_object() && state.contains("tokenizer") && state["tokenizer"].is_string(),
          "{}: its state is not one of a training run", path.string());
  const auto known = state["tokenizer"].get<std::string>();
  if (!tokenizer.empty() && !known.empty() && tokenizer != known)
    throw Error(
        ErrorKind::data,
        fmt::format("the data has the tokenizer '{}', the weights of {} were made for '{}'", tokenizer,
                    path.string(), known),
        "encode the data with the checkpoint's tokenizer; '' is that of .bin files, of which only the "
        "ids are known");
  return {std::move(contents.weights), std::move(contents.special_tokens_json)};
}

}  // namespace filigree
