#include "train/loaded_model.h"

#include "train/run_folder.h"

namespace filigree {

LoadedModel load_model(const std::filesystem::path& path) {
  LoadedModel loaded;
  loaded.checkpoint = find_checkpoint(path);
  const CheckpointContents contents = read_checkpoint(loaded.checkpoint);
  loaded.config = parse_config(parse_yaml(contents.config_yaml, loaded.checkpoint.string() + ": config"));
  loaded.state_json = contents.state_json;
  loaded.model = std::make_unique<Transformer>(loaded.config.model, 0);
  NamedTensors targets;
  loaded.model->visit([&](Parameter& p) { targets.emplace_back(p.name, p.var.value()); });
  load_tensors_into(targets, contents.weights, loaded.checkpoint.string());
  return loaded;
}

}  // namespace filigree
