// A Config becomes YAML again, its hash, and what differs between two trees.
#include "core/hash.h"
#include "train/config/internal.h"

namespace filigree {
namespace {

YamlNode paths_node(const std::vector<std::string>& paths) {
  YamlNode list = YamlNode::make_sequence();
  for (const std::string& path : paths) list.items.push_back(YamlNode::make(path));
  return list;
}

YamlNode lengths_node(const std::vector<std::int64_t>& lengths) {
  YamlNode list = YamlNode::make_sequence();
  for (const std::int64_t length : lengths) list.items.push_back(YamlNode::make(length));
  return list;
}

YamlNode model_node(const ModelConfig& model) {
  YamlNode node = YamlNode::make_map();
  node.add("type", YamlNode::make(word(model.type)));
  node.add("dim", YamlNode::make(model.dim));
  node.add("n_layers", YamlNode::make(model.n_layers));
  node.add("n_heads", YamlNode::make(model.n_heads));
  node.add("n_kv_heads", YamlNode::make(model.n_kv_heads));
  node.add("head_dim", YamlNode::make(model.head_dim));
  node.add("ffn_dim", YamlNode::make(model.ffn_dim));
  node.add("vocab_size", YamlNode::make(model.vocab_size));
  node.add("max_seq_len", YamlNode::make(model.max_seq_len));
  const bool classifier = model.type == ModelType::encoder_classifier;
  if (classifier) node.add("n_classes", YamlNode::make(model.n_classes));
  node.add("norm", YamlNode::make(word(model.norm)));
  node.add("norm_eps", YamlNode::make(model.norm_eps));
  node.add("activation", YamlNode::make(word(model.activation)));
  node.add("positions", YamlNode::make(word(model.positions)));
  if (model.positions == Positions::rope) node.add("rope_theta", YamlNode::make(model.rope_theta));
  node.add("bias", YamlNode::make(model.bias));
  if (!classifier) node.add("tied_embeddings", YamlNode::make(model.tied_embeddings));
  node.add("dropout", YamlNode::make(model.dropout));
  node.add("activation_checkpointing", YamlNode::make(model.activation_checkpointing));
  return node;
}

YamlNode data_node(const DataConfig& data, ModelType type) {
  YamlNode node = YamlNode::make_map();
  if (data.task) {
    node.add("task", data.task->to_yaml());
    node.add("seq_len", YamlNode::make(data.seq_len));
    if (!data.task->fresh) node.add("shuffle", YamlNode::make(data.shuffle));
    return node;
  }
  node.add("train", paths_node(data.train));
  if (!data.val.empty())
    node.add("val", paths_node(data.val));
  else
    node.add("val_fraction", YamlNode::make(data.val_fraction));
  node.add("format", YamlNode::make(word(data.format)));
  node.add("tokenizer", YamlNode::make(data.tokenizer));
  node.add("seq_len", YamlNode::make(data.seq_len));
  if (type != ModelType::encoder_classifier) node.add("documents", YamlNode::make(data.documents));
  node.add("shuffle", YamlNode::make(data.shuffle));
  if (type == ModelType::encoder_mlm) node.add("mask_probability", YamlNode::make(data.mask_probability));
  return node;
}

void add_optimizer(const TrainConfig& train, YamlNode& node) {
  node.add("optimizer", YamlNode::make(word(train.optimizer)));
  node.add("lr", YamlNode::make(train.lr));
  if (train.optimizer == OptimizerType::adamw) {
    YamlNode betas = YamlNode::make_sequence();
    for (const double beta : train.betas) betas.items.push_back(YamlNode::make(beta));
    node.add("betas", std::move(betas));
    node.add("eps", YamlNode::make(train.eps));
  } else {
    node.add("momentum", YamlNode::make(train.momentum));
  }
  node.add("weight_decay", YamlNode::make(train.weight_decay));
  node.add("clip", YamlNode::make(train.clip));
}

YamlNode train_node(const TrainConfig& train, bool has_validation) {
  YamlNode node = YamlNode::make_map();
  if (train.steps > 0)
    node.add("steps", YamlNode::make(train.steps));
  else
    node.add("epochs", YamlNode::make(train.epochs));
  node.add("batch_size", YamlNode::make(train.batch_size));
  node.add("micro_batch_size", YamlNode::make(train.micro_batch_size));
  add_optimizer(train, node);
  node.add("schedule", YamlNode::make(word(train.schedule)));
  if (train.schedule != ScheduleType::constant) node.add("min_lr", YamlNode::make(train.min_lr));
  if (train.warmup_steps) node.add("warmup_steps", YamlNode::make(*train.warmup_steps));
  if (train.decay_steps) node.add("decay_steps", YamlNode::make(*train.decay_steps));
  if (has_validation) {
    node.add("eval_interval", YamlNode::make(train.eval_interval));
    node.add("eval_batches", YamlNode::make(train.eval_batches));
    if (!train.eval_lengths.empty()) node.add("eval_lengths", lengths_node(train.eval_lengths));
  }
  node.add("log_interval", YamlNode::make(train.log_interval));
  if (!train.init_from.empty()) node.add("init_from", YamlNode::make(train.init_from));
  node.add("out", YamlNode::make(train.out));
  return node;
}

// One line for a value, cut if long.
std::string brief(const YamlNode* node) {
  if (node == nullptr) return "-";
  const std::string text = one_line(*node);
  return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

void add_differences(const YamlNode* a, const YamlNode* b, const std::string& path,
                     std::vector<std::string>& out) {
  if (a != nullptr && b != nullptr && filigree::to_yaml(*a) == filigree::to_yaml(*b)) return;
  const bool maps = a != nullptr && b != nullptr && a->is_map() && b->is_map();
  if (!maps || path == "pattern") {
    out.push_back(fmt::format("{}: {} / {}", path, brief(a), brief(b)));
    return;
  }
  const std::string prefix = path.empty() ? "" : path + ".";
  for (const auto& [key, value] : a->entries)
    add_differences(&value, b->find(key.scalar), prefix + key.scalar, out);
  for (const auto& [key, value] : b->entries)
    if (a->find(key.scalar) == nullptr) add_differences(nullptr, &value, prefix + key.scalar, out);
}

}  // namespace

YamlNode Config::to_yaml() const {
  YamlNode root = YamlNode::make_map();
  root.add("pattern", pattern);
  root.add("causal", YamlNode::make(causal));
  root.add("tile", YamlNode::make(tile));
  root.add("device", YamlNode::make(word(device)));
  root.add("precision", YamlNode::make(word(precision)));
  root.add("cuda_graph", YamlNode::make(cuda_graph));
  root.add("threads", YamlNode::make(threads));
  root.add("seed", YamlNode::make(seed));
  root.add("model", model_node(model));
  root.add("data", data_node(data, model.type));
  root.add("train", train_node(train, data.has_validation()));
  YamlNode saving = YamlNode::make_map();
  saving.add("interval", YamlNode::make(checkpoint.interval));
  saving.add("keep", YamlNode::make(checkpoint.keep));
  saving.add("best", YamlNode::make(checkpoint.best));
  root.add("checkpoint", std::move(saving));
  YamlNode logging = YamlNode::make_map();
  logging.add("tensorboard", YamlNode::make(log.tensorboard));
  root.add("log", std::move(logging));
  return root;
}

bool Config::operator==(const Config& other) const {
  return filigree::to_yaml(pattern) == filigree::to_yaml(other.pattern) && causal == other.causal &&
         tile == other.tile && device == other.device && precision == other.precision &&
         cuda_graph == other.cuda_graph && threads == other.threads && seed == other.seed &&
         model == other.model && data == other.data && train == other.train &&
         checkpoint == other.checkpoint && log == other.log;
}

std::string config_hash(const Config& config) {
  Config same = config;
  same.threads = 0;
  same.cuda_graph = true;
  same.train.out.clear();
  same.train.log_interval = 1;
  same.checkpoint = {};
  same.data.tokenizer = same.data.tokenizer.starts_with("bpe:") ? "bpe:" : "byte";
  same.log = {};
  const std::string text = to_yaml(same.to_yaml());
  return hex64(xxhash64(text.data(), text.size()));
}

std::vector<std::string> differences(const YamlNode& a, const YamlNode& b) {
  std::vector<std::string> out;
  add_differences(&a, &b, "", out);
  return out;
}

}  // namespace filigree
