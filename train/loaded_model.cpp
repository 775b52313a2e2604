#include "train/loaded_model.h"

#include <nlohmann/json.hpp>

#include "train/device_choice.h"
#include "train/layouts.h"
#include "train/run_folder.h"

namespace filigree {

LoadedModel load_model(const std::filesystem::path& path, DeviceChoice device) {
  LoadedModel loaded;
  loaded.checkpoint = find_checkpoint(path);
  const CheckpointContents contents = read_checkpoint(loaded.checkpoint);
  loaded.config = parse_config(parse_yaml(contents.config_yaml, loaded.checkpoint.string() + ": config"));
  if (device != DeviceChoice::automatic && device != loaded.config.device) {
    loaded.config.device = device;
    loaded.config.precision = Precision::automatic;
  }
  loaded.config = with_device(loaded.config);
  const auto state = nlohmann::json::parse(contents.state_json, nullptr, false);
  const auto text = [&](const char* key) {
    require(state.is_object() && state.contains(key) && state[key].is_string(),
            "{}: its state is not one of a training run", loaded.checkpoint.string());
    return state[key].get<std::string>();
  };
  loaded.tokenizer = read_tokenizer(contents, loaded.checkpoint.string());
  if (text("layout_files") != layout_files_sum(loaded.config))
    throw Error(ErrorKind::data,
                fmt::format("{}: a layout file of the pattern has changed since this checkpoint",
                            loaded.checkpoint.string()),
                "restore the file");
  loaded.model = std::make_unique<Transformer>(loaded.config.model, 0, device_of(loaded.config), DType::f32,
                                               compute_dtype(loaded.config));
  NamedTensors targets;
  loaded.model->visit([&](Parameter& p) { targets.emplace_back(p.name, p.var.value()); });
  load_tensors_into(targets, contents.weights, loaded.checkpoint.string());
  return loaded;
}

}  // namespace filigree
