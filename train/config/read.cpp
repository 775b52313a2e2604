// A YAML tree becomes a Config. In every section the values are read first, then whatever nobody asked for is
// refused, then values are held against each other; each error stands at the key to change.
#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "attention/sparse_attention.h"
#include "core/file.h"
#include "train/config/config.h"
#include "train/config/internal.h"

namespace filigree {
namespace {

constexpr std::int64_t kMaxCount = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMaxDim = 1 << 20;
constexpr std::int64_t kMaxSeqLen = 1 << 28;
constexpr double kMaxNumber = std::numeric_limits<double>::infinity();

// Where to point when `key` has to change: its value, or the map that lacks it.
const Mark& mark_of(MapReader& reader, std::string_view key) {
  const YamlNode* value = reader.find(key);
  return value ? value->mark : reader.node().mark;
}

// A key that the chosen options make no use of. At null it is not there: `data.val_fraction=null` removes
// what a config may have.
void refuse_unused(MapReader& reader, std::string_view key, const std::string& reason,
                   const std::string& hint) {
  reader.find(key);
  for (const auto& [name, value] : reader.node().entries)
    if (name.scalar == key && !value.is_null())
      fail_at(name.mark, fmt::format("{} is not used {}", reader.name(key), reason),
              hint.empty() ? "remove it" : fmt::format("remove it, or {}", hint));
}

template <class Enum>
Enum read_enum(MapReader& reader, std::string_view key, Enum fallback) {
  const Words& list = words<Enum>();
  const std::string text = reader.choice(key, list, word(fallback));
  return static_cast<Enum>(std::find(list.begin(), list.end(), text) - list.begin());
}

double read_positive(MapReader& reader, std::string_view key, double fallback) {
  const double value = reader.number(key, 0, kMaxNumber, fallback);
  if (value == 0) fail_at(mark_of(reader, key), fmt::format("{} must be above 0", reader.name(key)));
  return value;
}

// Every key of a config, for those that are written in another section or in none.
const std::vector<std::string>& all_keys() {
  static const std::vector<std::string> keys = [] {
    const std::pair<const char*, const char*> sections[] = {
        {"", "pattern causal tile device precision cuda_graph threads seed"},
        {"model.",
         "preset type dim n_layers n_heads n_kv_heads head_dim ffn_dim vocab_size max_seq_len norm norm_eps "
         "activation positions rope_theta bias dropout activation_checkpointing n_classes tied_embeddings"},
        {"data.", "train val val_fraction task format tokenizer seq_len shuffle documents mask_probability"},
        {"train.",
         "steps epochs batch_size micro_batch_size optimizer lr weight_decay clip momentum betas eps "
         "schedule "
         "warmup_steps min_lr decay_steps log_interval eval_interval eval_batches eval_lengths init_from "
         "out"},
        {"checkpoint.", "interval keep best"},
        {"log.", "tensorboard"}};
    std::vector<std::string> list;
    for (const auto& [section, names] : sections) {
      std::istringstream words(names);
      for (std::string name; words >> name;) list.push_back(section + name);
    }
    return list;
  }();
  return keys;
}

// A number in [0, 1).
double read_fraction(MapReader& reader, std::string_view key, double fallback) {
  const double value = reader.number(key, 0, 1, fallback);
  if (value == 1) fail_at(mark_of(reader, key), fmt::format("{} must be below 1", reader.name(key)));
  return value;
}

int read_int(MapReader& reader, std::string_view key, int min, int max) {
  return static_cast<int>(reader.integer(key, min, max));
}

// The section's map, or an empty one that stands where the whole config does.
MapReader section(MapReader& root, const std::string& key, YamlNode& empty) {
  const YamlNode* node = root.find(key);
  empty.mark = root.node().mark;
  return MapReader(node ? *node : empty, key);
}

// --- model ---

ModelConfig preset_defaults(MapReader& reader) {
  ModelConfig model;
  model.activation = Activation::gelu_tanh;
  if (reader.choice("preset", {"gpt2", "llama"}, "gpt2") == "llama") {
    model.norm = NormKind::rms_norm;
    model.activation = Activation::swiglu;
    model.positions = Positions::rope;
    model.bias = false;
    model.tied_embeddings = false;
  }
  return model;
}

void check_heads(MapReader& reader, ModelConfig& model) {
  if (reader.has("head_dim")) {
    model.head_dim = reader.integer("head_dim", 1, kMaxDim);
  } else if (model.dim % model.n_heads != 0) {
    fail_at(mark_of(reader, "n_heads"),
            fmt::format("model.n_heads must divide model.dim: {} / {} leaves {}", model.dim, model.n_heads,
                        model.dim % model.n_heads),
            "change one of them, or set model.head_dim");
  } else {
    model.head_dim = model.dim / model.n_heads;
  }
  if (model.head_dim > kMaxHeadDim)
    fail_at(mark_of(reader, reader.has("head_dim") ? "head_dim" : "n_heads"),
            fmt::format("the head dimension must be at most {}, not {}", kMaxHeadDim, model.head_dim),
            "take more heads, or set model.head_dim");
  if (model.n_heads % model.n_kv_heads != 0)
    fail_at(mark_of(reader, "n_kv_heads"),
            fmt::format("model.n_kv_heads must divide model.n_heads: {} / {} leaves {}", model.n_heads,
                        model.n_kv_heads, model.n_heads % model.n_kv_heads));
  if (model.positions == Positions::rope && model.head_dim % 2 != 0)
    fail_at(mark_of(reader, reader.has("head_dim") ? "head_dim" : "n_heads"),
            fmt::format("positions: rope turns pairs of values and needs an even head_dim, not {}",
                        model.head_dim));
}

ModelConfig read_model(MapReader reader, std::int64_t seq_len) {
  ModelConfig model = preset_defaults(reader);
  model.type = read_enum(reader, "type", model.type);
  model.dim = reader.integer("dim", 1, kMaxDim);
  model.n_layers = read_int(reader, "n_layers", 1, 10000);
  model.n_heads = read_int(reader, "n_heads", 1, 10000);
  model.n_kv_heads = static_cast<int>(reader.integer("n_kv_heads", 1, 10000, model.n_heads));
  reader.find("head_dim");  // read by check_heads
  model.ffn_dim = reader.has("ffn_dim") ? reader.integer("ffn_dim", 1, 8 * kMaxDim) : 0;
  reader.find("ffn_dim");
  model.vocab_size = reader.integer("vocab_size", 0, 1 << 30, 0);
  model.max_seq_len = reader.integer("max_seq_len", 1, kMaxSeqLen, seq_len);
  model.norm = read_enum(reader, "norm", model.norm);
  model.norm_eps = read_positive(reader, "norm_eps", model.norm_eps);
  model.activation = read_enum(reader, "activation", model.activation);
  model.positions = read_enum(reader, "positions", model.positions);
  model.bias = reader.boolean("bias", model.bias);
  model.dropout = read_fraction(reader, "dropout", model.dropout);
  model.activation_checkpointing = reader.boolean("activation_checkpointing", false);

  if (model.positions == Positions::rope)
    model.rope_theta = read_positive(reader, "rope_theta", model.rope_theta);
  else
    refuse_unused(reader, "rope_theta", fmt::format("by positions: {}", word(model.positions)),
                  "set positions: rope");
  if (model.type == ModelType::encoder_classifier) {
    model.n_classes = reader.integer("n_classes", 0, 1 << 30, 0);
    if (model.n_classes == 1)
      fail_at(mark_of(reader, "n_classes"), "model.n_classes must be 0 (as the data has) or at least 2");
    refuse_unused(reader, "tied_embeddings", "by type: encoder_classifier, which has no output embedding",
                  "");
    model.tied_embeddings = false;
  } else {
    refuse_unused(reader, "n_classes", fmt::format("by type: {}", word(model.type)),
                  "set type: encoder_classifier");
    model.tied_embeddings = reader.boolean("tied_embeddings", model.tied_embeddings);
  }
  reader.done(all_keys());

  check_heads(reader, model);
  if (model.max_seq_len < seq_len)
    fail_at(mark_of(reader, "max_seq_len"),
            fmt::format("model.max_seq_len must be at least data.seq_len ({}), not {}", seq_len,
                        model.max_seq_len));
  // Zeros that the data fills in later are no reason for resolved() to refuse.
  ModelConfig known = model;
  known.vocab_size = std::max<std::int64_t>(1, model.vocab_size);
  known.n_classes = std::max<std::int64_t>(1, model.n_classes);
  model.ffn_dim = resolved(known).ffn_dim;
  return model;
}

// --- data ---

std::vector<std::string> read_paths(const YamlNode& node, const std::string& what) {
  std::vector<std::string> paths;
  if (node.is_sequence()) {
    if (node.items.empty()) fail_at(node.mark, fmt::format("{} names no file", what));
    for (const YamlNode& item : node.items) paths.push_back(as_string(item, what));
  } else {
    paths.push_back(as_string(node, what));
  }
  for (const std::string& path : paths)
    if (path.empty()) fail_at(node.mark, fmt::format("{} has an empty path", what));
  return paths;
}

std::string read_tokenizer(MapReader& reader, const std::string& fallback) {
  const YamlNode* node = reader.find("tokenizer");
  if (node && node->is_scalar() && node->scalar.starts_with("bpe:") && node->scalar != "bpe:")
    return "bpe:" + expand_home(node->scalar.substr(4));
  return reader.choice("tokenizer", {"auto", "byte", "bpe:FILE", "ids"}, fallback);
}

// data.task takes the place of whatever is read from files.
DataConfig read_task_data(MapReader& reader, ModelType type) {
  DataConfig data;
  for (const char* key : {"train", "val"})
    if (reader.find(key))
      fail_at(mark_of(reader, key), fmt::format("data.task and {} are both given", reader.name(key)),
              fmt::format("remove one; null removes an inherited key: {}: null", key));
  for (const char* key : {"val_fraction", "format", "tokenizer", "documents", "mask_probability"})
    refuse_unused(reader, key, "where data.task is given", "remove data.task");
  data.seq_len = reader.integer("seq_len", 1, kMaxSeqLen);
  data.task = read_task(reader.at("task"), data.seq_len);
  if (data.task->fresh)
    refuse_unused(reader, "shuffle", "by a task that draws new samples each epoch", "set its fresh: false");
  else
    data.shuffle = reader.boolean("shuffle", data.shuffle);
  reader.done(all_keys());
  const bool classes = !data.task->task->class_names().empty();
  const ModelType fits = classes ? ModelType::encoder_classifier : ModelType::decoder;
  if (type != fits)
    fail_at(mark_of(reader, "task"),
            fmt::format("the task '{}' is one for model.type: {}, not {}", data.task->task->name(),
                        word(fits), word(type)),
            fmt::format("set model.type: {}", word(fits)));
  return data;
}

DataConfig read_data(MapReader reader, ModelType type) {
  if (reader.find("task")) return read_task_data(reader, type);
  DataConfig data;
  data.train = read_paths(reader.at("train"), "data.train");
  if (const YamlNode* val = reader.find("val")) {
    data.val = read_paths(*val, "data.val");
    refuse_unused(reader, "val_fraction", "where data.val is given", "remove data.val");
    data.val_fraction = 0;
  } else {
    data.val_fraction = read_fraction(reader, "val_fraction", data.val_fraction);
  }
  data.format = read_enum(reader, "format", data.format);
  data.tokenizer = read_tokenizer(reader, data.tokenizer);
  data.seq_len = reader.integer("seq_len", 1, kMaxSeqLen);
  data.shuffle = reader.boolean("shuffle", data.shuffle);
  if (type == ModelType::encoder_classifier)
    refuse_unused(reader, "documents", "by type: encoder_classifier, where each file is one sample", "");
  else
    data.documents = reader.boolean("documents", data.documents);
  if (type == ModelType::encoder_mlm) {
    data.mask_probability = read_positive(reader, "mask_probability", data.mask_probability);
    if (data.mask_probability > 1)
      fail_at(mark_of(reader, "mask_probability"), "data.mask_probability must be at most 1");
  } else {
    refuse_unused(reader, "mask_probability", fmt::format("by type: {}", word(type)),
                  "set model.type: encoder_mlm");
  }
  reader.done(all_keys());
  return data;
}

// --- train ---

void read_length(MapReader& reader, TrainConfig& train) {
  if (reader.has("steps")) train.steps = reader.integer("steps", 1, kMaxCount);
  if (reader.has("epochs")) train.epochs = read_positive(reader, "epochs", 0);
  reader.find("steps");
  reader.find("epochs");
}

void read_batch(MapReader& reader, TrainConfig& train) {
  train.batch_size = reader.integer("batch_size", 1, 1 << 30);
  train.micro_batch_size = reader.integer("micro_batch_size", 1, 1 << 30, train.batch_size);
}

void read_optimizer(MapReader& reader, TrainConfig& train) {
  train.optimizer = read_enum(reader, "optimizer", train.optimizer);
  reader.at("lr");
  train.lr = read_positive(reader, "lr", 0);
  const bool adamw = train.optimizer == OptimizerType::adamw;
  train.weight_decay = reader.number("weight_decay", 0, kMaxNumber, adamw ? 0.1 : 0.0);
  train.clip = reader.number("clip", 0, kMaxNumber, train.clip);
  if (!adamw) {
    train.momentum = read_fraction(reader, "momentum", 0.9);
    for (const char* key : {"betas", "eps"})
      refuse_unused(reader, key, "by optimizer: sgd", "set optimizer: adamw");
    return;
  }
  refuse_unused(reader, "momentum", "by optimizer: adamw", "set optimizer: sgd");
  train.eps = read_positive(reader, "eps", train.eps);
  if (const YamlNode* betas = reader.find("betas")) {
    if (!betas->is_sequence() || betas->items.size() != 2)
      fail_at(betas->mark, "train.betas must be a list of two numbers, such as [0.9, 0.95]");
    for (std::size_t i = 0; i < 2; ++i) {
      train.betas[i] = as_number(betas->items[i], "train.betas", 0, 1);
      if (train.betas[i] == 1) fail_at(betas->items[i].mark, "train.betas must be below 1");
    }
  }
}

void read_schedule(MapReader& reader, TrainConfig& train) {
  train.schedule = read_enum(reader, "schedule", train.schedule);
  if (reader.find("warmup_steps")) train.warmup_steps = reader.integer("warmup_steps", 0, kMaxCount);
  if (train.schedule == ScheduleType::constant)
    refuse_unused(reader, "min_lr", "by schedule: constant", "choose another schedule");
  else
    train.min_lr = reader.number("min_lr", 0, kMaxNumber, train.lr / 10);
  if (train.schedule != ScheduleType::wsd)
    refuse_unused(reader, "decay_steps", fmt::format("by schedule: {}", word(train.schedule)),
                  "set schedule: wsd");
  else if (reader.find("decay_steps"))
    train.decay_steps = reader.integer("decay_steps", 1, kMaxCount);
}

void read_eval_lengths(MapReader& reader, TrainConfig& train) {
  const YamlNode* list = reader.find("eval_lengths");
  if (!list) return;
  if (!list->is_sequence() || list->items.empty())
    fail_at(list->mark, "train.eval_lengths must be a list of lengths", "for example [512, 1024, 2048]");
  for (const YamlNode& item : list->items) {
    const std::int64_t length = as_integer(item, "train.eval_lengths", 1, kMaxSeqLen);
    if (std::ranges::count(train.eval_lengths, length) > 0)
      fail_at(item.mark, fmt::format("train.eval_lengths lists {} twice", length));
    train.eval_lengths.push_back(length);
  }
}

void read_evaluation(MapReader& reader, TrainConfig& train, const DataConfig& data) {
  train.log_interval = reader.integer("log_interval", 1, kMaxCount, train.log_interval);
  if (data.has_validation()) {
    train.eval_interval = reader.integer("eval_interval", 0, kMaxCount, train.eval_interval);
    train.eval_batches = reader.integer("eval_batches", 0, kMaxCount, train.eval_batches);
  } else {
    for (const char* key : {"eval_interval", "eval_batches", "eval_lengths"})
      refuse_unused(reader, key, "without validation data", "set data.val or data.val_fraction");
  }
  if (data.task)
    read_eval_lengths(reader, train);
  else
    refuse_unused(reader, "eval_lengths", "by data that is read from files", "set data.task");
}

// Once everything else is known.
void check_eval_lengths(const MapReader& reader, const Config& config) {
  const YamlNode* list = reader.node().find("eval_lengths");
  for (std::size_t i = 0; i < config.train.eval_lengths.size(); ++i) {
    try {
      at_length(config, config.train.eval_lengths[i]);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::usage) throw;
      fail_at(list->items[i].mark, fmt::format("train.eval_lengths: {}", e.what()), "remove this length");
    }
  }
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

TrainConfig read_train(MapReader reader, const DataConfig& data, const std::string& name) {
  TrainConfig train;
  read_length(reader, train);
  read_batch(reader, train);
  read_optimizer(reader, train);
  read_schedule(reader, train);
  read_evaluation(reader, train, data);
  train.init_from = reader.path("init_from", "");
  train.out = reader.path("out", "runs/" + name);
  reader.done(all_keys());

  if (reader.has("steps") && reader.has("epochs"))
    fail_at(mark_of(reader, "epochs"), "train.epochs and train.steps are both given",
            "remove one; null removes an inherited key: steps: null");
  if (!reader.has("steps") && !reader.has("epochs"))
    fail_at(reader.node().mark, "train.steps is missing", "add 'steps:' or 'epochs:'");
  if (train.batch_size % train.micro_batch_size != 0)
    fail_at(mark_of(reader, "micro_batch_size"),
            fmt::format("train.micro_batch_size must divide train.batch_size: {} / {} leaves {}",
                        train.batch_size, train.micro_batch_size, train.batch_size % train.micro_batch_size));
  if (train.min_lr > train.lr)
    fail_at(mark_of(reader, "min_lr"), fmt::format("train.min_lr must be at most train.lr ({})", train.lr));
  if (reader.has("init_from") && train.init_from.empty())
    fail_at(mark_of(reader, "init_from"), "train.init_from is empty",
            "name a checkpoint file or a run folder, or remove it");
  if (train.out.empty())
    fail_at(mark_of(reader, "out"), "train.out is empty", "name a folder, such as runs/first");
  if (train.steps > 0) {
    fill_schedule(train);
    const auto [key, message] = schedule_conflict(train);
    if (!key.empty()) fail_at(mark_of(reader, key), message);
  }
  return train;
}

CheckpointConfig read_checkpoint(MapReader reader, bool has_validation) {
  CheckpointConfig checkpoint;
  checkpoint.interval = reader.integer("interval", 0, kMaxCount, checkpoint.interval);
  checkpoint.keep = reader.integer("keep", 1, kMaxCount, checkpoint.keep);
  checkpoint.best = reader.boolean("best", has_validation);
  if (checkpoint.best && !has_validation)
    fail_at(mark_of(reader, "best"), "checkpoint.best needs validation data",
            "set data.val or data.val_fraction, or best: false");
  reader.done(all_keys());
  return checkpoint;
}

LogConfig read_log(MapReader reader) {
  LogConfig log;
  log.tensorboard = reader.boolean("tensorboard", log.tensorboard);
  reader.done(all_keys());
  return log;
}

YamlNode read_pattern(MapReader& root) {
  if (const YamlNode* node = root.find("pattern")) return *node;
  YamlNode full = YamlNode::make_map();
  full.add("full", YamlNode::make_map());
  return full;
}

}  // namespace

std::pair<std::string, std::string> schedule_conflict(const TrainConfig& train) {
  if (*train.warmup_steps >= train.steps)
    return {"warmup_steps", fmt::format("train.warmup_steps ({}) must be below train.steps ({})",
                                        *train.warmup_steps, train.steps)};
  if (train.decay_steps && *train.decay_steps > train.steps - *train.warmup_steps)
    return {"decay_steps", fmt::format("train.decay_steps ({}) must be at most steps - warmup_steps ({})",
                                       *train.decay_steps, train.steps - *train.warmup_steps)};
  return {};
}

int read_tile(MapReader& root) {
  const YamlNode* node = root.find("tile");
  if (node == nullptr) return 64;
  const auto tile = as_integer(*node, "tile", 16, 128);
  if (tile != 16 && tile != 32 && tile != 64 && tile != 128)
    fail_at(node->mark, fmt::format("tile must be one of 16, 32, 64, 128, not {}", tile));
  return static_cast<int>(tile);
}

const std::string& word(ModelType value) {
  return words<ModelType>()[static_cast<std::size_t>(value)];
}
const std::string& word(NormKind value) {
  return words<NormKind>()[static_cast<std::size_t>(value)];
}
const std::string& word(Activation value) {
  return words<Activation>()[static_cast<std::size_t>(value)];
}
const std::string& word(Positions value) {
  return words<Positions>()[static_cast<std::size_t>(value)];
}
const std::string& word(OptimizerType value) {
  return words<OptimizerType>()[static_cast<std::size_t>(value)];
}
const std::string& word(ScheduleType value) {
  return words<ScheduleType>()[static_cast<std::size_t>(value)];
}
const std::string& word(DataFormat value) {
  return words<DataFormat>()[static_cast<std::size_t>(value)];
}
const std::string& word(DeviceChoice value) {
  return words<DeviceChoice>()[static_cast<std::size_t>(value)];
}
const std::string& word(Precision value) {
  return words<Precision>()[static_cast<std::size_t>(value)];
}

Config parse_config(const YamlNode& root_node, const std::string& name) {
  MapReader root(root_node, "");
  Config config;
  config.pattern = read_pattern(root);
  config.tile = read_tile(root);
  config.device = read_enum(root, "device", config.device);
  config.precision = read_enum(root, "precision", config.precision);
  config.cuda_graph = root.boolean("cuda_graph", config.cuda_graph);
  config.threads = static_cast<int>(root.integer("threads", 0, 1024, 0));
  config.seed = root.integer("seed", 0, kMaxCount, config.seed);
  root.find("causal");
  for (const char* key : {"model", "data", "train"}) root.at(key);
  root.find("checkpoint");
  root.find("log");
  root.done(all_keys());

  YamlNode none;
  // The model's type decides what data uses, data.seq_len what the model needs: a first look at the type.
  MapReader type_reader = section(root, "model", none);
  const ModelType type = read_enum(type_reader, "type", ModelType::decoder);
  config.data = read_data(section(root, "data", none), type);
  config.model = read_model(section(root, "model", none), config.data.seq_len);
  config.train = read_train(section(root, "train", none), config.data, name);
  config.checkpoint = read_checkpoint(section(root, "checkpoint", none), config.data.has_validation());
  config.log = read_log(section(root, "log", none));

  const bool decoder = type == ModelType::decoder;
  config.causal = root.boolean("causal", decoder);
  if (decoder && !config.causal)
    fail_at(mark_of(root, "causal"),
            "a decoder predicts the next token and must not see it: causal must be true",
            "set causal: true, or model.type: encoder_mlm");
  validate_pattern(config);
  check_eval_lengths(section(root, "train", none), config);
  return config;
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
  const auto [key, message] = schedule_conflict(train);
  require(key.empty(), "{} (from train.epochs)", message);
  return config;
}

}  // namespace filigree
