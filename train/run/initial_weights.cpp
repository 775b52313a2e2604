#include "train/run/initial_weights.h"

#include <nlohmann/json.hpp>

#include "train/record/run_folder.h"
#include "train/record/token_ids.h"
#include "train/run/trained_data.h"

namespace filigree {
namespace {

// The same files split in another way: the weights have seen text that the new run calls validation.
void warn_of_other_split(const Config& config, const OpenedData& data, const Config& saved,
                         const TrainedOn& then, const std::string& origin) {
  if (config.data.task || !data.validation || !config.data.val.empty() || then.data.empty() ||
      config.data.train != saved.data.train)
    return;
  const TrainedOn now = trained_on(data);
  if (now.data == then.data || now.validation == then.validation) return;
  fmt::print(
      stderr,
      "filigree: warning: {} was trained on another split of these files, so its weights have seen some "
      "of the validation text; seed: {} and data.val_fraction: {} split unchanged files as then\n",
      origin, saved.seed, saved.data.val_fraction);
}

}  // namespace

InitialWeights read_initial_weights(const Config& config, const OpenedData& data) {
  const std::filesystem::path path = find_checkpoint(config.train.init_from);
  CheckpointContents contents = read_checkpoint(path);
  require_same_weights(config, contents.config_yaml, path.string());
  const auto state = nlohmann::json::parse(contents.state_json, nullptr, false);
  require(state.is_object() && state.contains("tokenizer") && state["tokenizer"].is_string(),
          "{}: its state is not one of a training run", path.string());
  std::string note = require_fitting_tokens(data.train.vocabulary(),
                                            {state["tokenizer"], config.model.vocab_size, path.string()});
  const TrainedOn then = trained_on(contents.state_json, path.string());
  const std::vector<std::string>&classes = then.classes, &ours = data.train.class_names();
  if (!classes.empty() && classes != ours)
    fail(ErrorKind::data, "the data has the classes {}, the weights of {} were trained for {}",
         fmt::join(ours, ", "), path.string(), fmt::join(classes, ", "));
  const Config saved = parse_config(parse_yaml(contents.config_yaml, path.string()));
  warn_of_other_split(config, data, saved, then, path.string());
  return {std::move(contents.weights), std::move(contents.special_tokens_json), std::move(note)};
}

}  // namespace filigree
