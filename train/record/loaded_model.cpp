#include "train/record/loaded_model.h"

#include <nlohmann/json.hpp>

#include "train/config/device_choice.h"
#include "train/config/layouts.h"
#include "train/record/run_folder.h"
#include "train/record/special_tokens.h"

namespace filigree {

StoredModel read_stored_model(const std::filesystem::path& path) {
  StoredModel stored;
  stored.checkpoint = find_checkpoint(path);
  const std::string origin = stored.checkpoint.string();
  CheckpointContents contents = read_checkpoint(stored.checkpoint);
  stored.config = parse_config(parse_yaml(contents.config_yaml, origin + ": config"));
  stored.tokenizer = read_tokenizer(contents, origin);
  const auto state = nlohmann::json::parse(contents.state_json, nullptr, false);
  stored.tokenizer_name = state["tokenizer"];  // read_tokenizer has seen that it is there
  // Older checkpoints of token files say byte, whatever these held.
  if (!stored.config.data.task) stored.config.data.tokenizer = tokenizer_word(stored.tokenizer_name);
  stored.trained_on = trained_on(contents.state_json, origin);
  require(state.contains("layout_files") && state["layout_files"].is_string(),
          "{}: its state is not one of a training run", origin);
  if (state["layout_files"] != layout_files_sum(stored.config))
    throw Error(ErrorKind::data,
                fmt::format("{}: a layout file of the pattern has changed since this checkpoint", origin),
                "restore the file");
  stored.weights = std::move(contents.weights);
  stored.patterns = std::move(contents.patterns);
  stored.special_tokens_json = std::move(contents.special_tokens_json);
  return stored;
}

LoadedModel load_model(const std::filesystem::path& path, DeviceChoice device) {
  StoredModel stored = read_stored_model(path);
  LoadedModel loaded{stored.checkpoint,     stored.config,     stored.tokenizer,
                     stored.tokenizer_name, stored.trained_on, nullptr};
  if (device != DeviceChoice::automatic && device != loaded.config.device) {
    loaded.config.device = device;
    loaded.config.precision = Precision::automatic;
  }
  loaded.config = with_device(loaded.config);
  loaded.model = std::make_unique<Transformer>(loaded.config.model, 0, device_of(loaded.config), DType::f32,
                                               compute_dtype(loaded.config), layer_patterns(loaded.config));
  NamedTensors targets;
  loaded.model->visit([&](Parameter& p) { targets.emplace_back(p.name, p.var.value()); });
  load_tensors_into(targets, stored.weights, loaded.checkpoint.string());
  load_patterns(*loaded.model, loaded.config, stored.patterns, loaded.checkpoint.string());
  const std::string origin = loaded.checkpoint.string();
  loaded.end_tokens = end_tokens(parse_special_tokens(stored.special_tokens_json, origin), origin);
  return loaded;
}

}  // namespace filigree
