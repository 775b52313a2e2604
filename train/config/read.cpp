// A YAML tree becomes a Config. The values are read first, then whatever nobody asked for is refused, then
// values are held against each other; each error stands at the key to change.
#include <algorithm>
#include <cmath>

#include "train/config/config.h"

namespace filigree {
namespace {

// Every key of a config, for those that are written in another section or in none.
const std::vector<std::string>& all_keys() {
  static const std::vector<std::string> keys = [] {
    FieldList list;
    Config config;
    fields(list, config);
    return list.keys();
  }();
  return keys;
}

void refuse(MapReader& map, const std::optional<Conflict>& found) {
  if (found) fail_at(map.mark_of(found->key), found->message, found->hint);
}

void check_data(MapReader data, Config& config) {
  if (!config.data.val.empty()) config.data.val_fraction = 0;
  if (!config.data.task) return;
  const GeneratedTask& task = *config.data.task->task;
  const ModelType type = config.model.type,
                  fits = task.class_names().empty() ? ModelType::decoder : ModelType::encoder_classifier;
  if (type != fits)
    fail_at(
        data.mark_of("task"),
        fmt::format("the task '{}' is one for model.type: {}, not {}", task.name(), word(fits), word(type)),
        fmt::format("set model.type: {}", word(fits)));
}

void check_model(MapReader map, Config& config) {
  ModelConfig& model = config.model;
  const std::int64_t seq_len = config.data.seq_len;
  if (model.type == ModelType::encoder_classifier) model.tied_embeddings = false;
  if (model.n_classes == 1)
    fail_at(map.mark_of("n_classes"), "model.n_classes must be 0 (as the data has) or at least 2");
  fill_derived(model);
  std::optional<Conflict> found = conflict(model);
  if (found && found->key == "head_dim" && !map.has("head_dim"))
    found->key = "n_heads";  // it follows from these
  refuse(map, found);
  if (model.max_seq_len == 0) model.max_seq_len = seq_len;
  if (model.max_seq_len < seq_len)
    fail_at(map.mark_of("max_seq_len"),
            fmt::format("model.max_seq_len must be at least data.seq_len ({}), not {}", seq_len,
                        model.max_seq_len));
}

// Fills warmup_steps and decay_steps where they were not given; train.steps is known.
void fill_schedule(TrainConfig& train) {
  train.warmup_is_default = {!train.warmup_steps};
  train.decay_is_default = {!train.decay_steps};
  if (!train.warmup_steps) train.warmup_steps = std::min<std::int64_t>(train.steps / 20, 2000);
  if (train.schedule == ScheduleType::wsd && !train.decay_steps)
    train.decay_steps =
        std::max<std::int64_t>(1, std::min(train.steps / 5, train.steps - *train.warmup_steps));
}

void check_train(MapReader map, TrainConfig& train) {
  if (map.has("steps") && map.has("epochs"))
    fail_at(map.mark_of("epochs"), "train.epochs and train.steps are both given",
            "remove one; null removes an inherited key: steps: null");
  if (!map.has("steps") && !map.has("epochs"))
    fail_at(map.node().mark, "train.steps is missing", "add 'steps:' or 'epochs:'");
  if (train.batch_size % train.micro_batch_size != 0)
    fail_at(map.mark_of("micro_batch_size"),
            fmt::format("train.micro_batch_size must divide train.batch_size: {} / {} leaves {}",
                        train.batch_size, train.micro_batch_size, train.batch_size % train.micro_batch_size));
  if (train.min_lr > train.lr)
    fail_at(map.mark_of("min_lr"), fmt::format("train.min_lr must be at most train.lr ({})", train.lr));
  if (map.has("init_from") && train.init_from.empty())
    fail_at(map.mark_of("init_from"), "train.init_from is empty",
            "name a checkpoint file or a run folder, or remove it");
  if (train.out.empty())
    fail_at(map.mark_of("out"), "train.out is empty", "name a folder, such as runs/first");
  if (train.steps == 0) return;
  fill_schedule(train);
  refuse(map, schedule_conflict(train));
}

void check_eval_lengths(const MapReader& train, const Config& config) {
  const YamlNode* list = train.node().find("eval_lengths");
  for (std::size_t i = 0; i < config.train.eval_lengths.size(); ++i) {
    try {
      at_length(config, config.train.eval_lengths[i]);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::usage) throw;
      fail_at(list->items[i].mark, fmt::format("train.eval_lengths: {}", e.what()), "remove this length");
    }
  }
}

// Sets the file that the nodes of a task would stand in, so that messages begin with the length.
void set_file(YamlNode& node, const std::string& file) {
  node.mark.file = file;
  for (auto& [key, value] : node.entries) {
    set_file(key, file);
    set_file(value, file);
  }
  for (YamlNode& item : node.items) set_file(item, file);
}

}  // namespace

std::optional<Conflict> schedule_conflict(const TrainConfig& train) {
  if (*train.warmup_steps >= train.steps)
    return Conflict{"warmup_steps", fmt::format("train.warmup_steps ({}) must be below train.steps ({})",
                                                *train.warmup_steps, train.steps)};
  if (train.decay_steps && *train.decay_steps > train.steps - *train.warmup_steps)
    return Conflict{"decay_steps",
                    fmt::format("train.decay_steps ({}) must be at most steps - warmup_steps ({})",
                                *train.decay_steps, train.steps - *train.warmup_steps)};
  return std::nullopt;
}

Config parse_config(const YamlNode& root, const std::string& name) {
  Config config;
  config.train.out = "runs/" + name;
  MapReader map(root, "");
  FieldReader reader(map, all_keys());
  fields(reader, config);
  reader.done();

  const auto section = [&](const std::string& key) { return MapReader(map.at(key), key); };
  check_model(section("model"), config);
  check_data(section("data"), config);
  check_train(section("train"), config.train);
  if (config.checkpoint.best && !config.data.has_validation())
    fail_at(section("checkpoint").mark_of("best"), "checkpoint.best needs validation data",
            "set data.val or data.val_fraction, or best: false");
  const bool decoder = config.model.type == ModelType::decoder;
  if (!map.has("causal")) config.causal = decoder;
  if (decoder && !config.causal)
    fail_at(map.mark_of("causal"),
            "a decoder predicts the next token and must not see it: causal must be true",
            "set causal: true, or model.type: encoder_mlm");
  config.pattern = read_pattern(config.pattern.written);
  validate_pattern(config);
  check_eval_lengths(section("train"), config);
  return config;
}

std::optional<PatternFile> load_pattern_file(const std::filesystem::path& path) {
  const YamlNode tree = parse_yaml_file(path);
  for (const char* key : {"model", "data", "train", "extends", "axes"})
    if (tree.find(key) != nullptr) return std::nullopt;
  MapReader map(tree, "");
  map.at("pattern");
  PatternFile file;
  FieldReader reader(map);
  fields(reader, file);
  reader.done();
  file.pattern = read_pattern(file.pattern.written);
  return file;
}

Config resolve_steps(Config config, std::int64_t steps_per_epoch) {
  TrainConfig& train = config.train;
  if (train.steps > 0) return config;
  const double steps = std::ceil(train.epochs * static_cast<double>(steps_per_epoch));
  require(steps >= 1 && steps < 9e15, "train.epochs {} of {} steps is not a number of steps", train.epochs,
          steps_per_epoch);
  train.steps = static_cast<std::int64_t>(steps);
  train.epochs = 0;
  fill_schedule(train);
  if (const auto found = schedule_conflict(train))
    fail(ErrorKind::usage, "{} (from train.epochs)", found->message);
  return config;
}

Config at_length(const Config& config, std::int64_t seq_len) {
  const ModelConfig& model = config.model;
  require(model.positions != Positions::learned || seq_len <= model.max_seq_len,
          "at {} tokens: learned positions end at model.max_seq_len, {}", seq_len, model.max_seq_len);
  Config out = config;
  out.data.seq_len = seq_len;
  if (config.data.task) {
    YamlNode task = config.data.task->to_yaml();
    set_file(task, fmt::format("at {} tokens", seq_len));
    out.data.task = read_task(task, seq_len);
  }
  const std::int64_t tokens = config.train.micro_batch_size * config.data.seq_len;
  out.train.micro_batch_size = std::max<std::int64_t>(1, tokens / seq_len);
  validate_pattern(out);
  return out;
}

}  // namespace filigree
