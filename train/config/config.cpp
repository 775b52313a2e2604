// Every setting of a config, once: reading, printing, hashing and the reference of all keys follow these
// lines.
#include "train/config/config.h"

#include <algorithm>

#include "core/file.h"
#include "core/hash.h"

namespace filigree {
namespace {

// --- settings that are lists ---

template <class T>
Field::Print print_list(const std::vector<T>& values) {  // an empty one is not printed
  return [&values] {
    if (values.empty()) return YamlNode();
    YamlNode list = YamlNode::make_sequence();
    for (const T& value : values) list.items.push_back(YamlNode::make(value));
    return list;
  };
}

void paths(Fields& f, std::string_view key, std::vector<std::string>& paths, std::string_view meaning,
           bool required, Notes notes) {
  const auto read = [&paths, key](const YamlNode& node, const MapReader& map) {
    const std::string name = map.name(key);
    const std::vector<YamlNode> items = node.is_sequence() ? node.items : std::vector<YamlNode>{node};
    if (items.empty()) fail_at(node.mark, fmt::format("{} names no file", name));
    paths.clear();
    for (const YamlNode& item : items) paths.push_back(as_string(item, name));
    if (std::ranges::count(paths, "")) fail_at(node.mark, fmt::format("{} has an empty path", name));
  };
  f.custom(key, Field::Type::texts, meaning, read, print_list(paths), std::move(notes), required);
}

void betas(Fields& f, std::array<double, 2>& betas, const Use& use) {
  const auto read = [&betas](const YamlNode& node, const MapReader& map) {
    const std::string name = map.name("betas");
    if (!node.is_sequence() || node.items.size() != 2)
      fail_at(node.mark, fmt::format("{} must be a list of two numbers, such as [0.9, 0.95]", name));
    for (std::size_t i = 0; i < 2; ++i) {
      betas[i] = as_number(node.items[i], name, 0, 1);
      if (betas[i] == 1) fail_at(node.items[i].mark, fmt::format("{} must be below 1", name));
    }
  };
  const auto print = [&betas] { return print_list<double>({betas.begin(), betas.end()})(); };
  f.custom("betas", Field::Type::numbers, "decay of the first and second moment, each in [0, 1)", read, print,
           {.use = use});
}

void eval_lengths(Fields& f, std::vector<std::int64_t>& lengths, const Use& use) {
  const auto read = [&lengths](const YamlNode& node, const MapReader& map) {
    const std::string name = map.name("eval_lengths");
    if (!node.is_sequence() || node.items.empty())
      fail_at(node.mark, fmt::format("{} must be a list of lengths", name), "for example [512, 1024, 2048]");
    for (const YamlNode& item : node.items) {
      const std::int64_t length = as_integer(item, name, 1, kMaxSeqLen);
      if (std::ranges::count(lengths, length))
        fail_at(item.mark, fmt::format("{} lists {} twice", name, length));
      lengths.push_back(length);
    }
  };
  f.custom("eval_lengths", Field::Type::integers, "the last evaluation is also made at these lengths", read,
           print_list(lengths), {.unit = "tokens", .use = use});
}

// Patterns that name parameters. They keep their marks: the parameters are known when there is a model.
void name_patterns(Fields& f, std::vector<YamlNode>& names) {
  const auto read = [&names](const YamlNode& node, const MapReader& map) {
    names = node.is_sequence() ? node.items : std::vector<YamlNode>{node};
    for (const YamlNode& name : names) as_string(name, map.name("names"));
    if (names.empty()) fail_at(node.mark, fmt::format("{} is empty", map.name("names")));
  };
  const auto print = [&names] {
    YamlNode list = YamlNode::make_sequence();
    for (const YamlNode& name : names) list.items.push_back(YamlNode::make(name.scalar));
    return list;
  };
  f.custom("names", Field::Type::texts,
           "names of parameters as --dry-run lists them; * is any text, ? any character, [0-3] one of these",
           read, print, {}, true);
}

// --- sections ---

void task(Fields& f, DataConfig& d) {
  const auto read = [&d](const YamlNode& node, MapReader& map) {
    for (const char* key : {"train", "val"})
      if (map.has(key))
        fail_at(map.mark_of(key), fmt::format("{} and {} are both given", map.name("task"), map.name(key)),
                fmt::format("remove one; null removes an inherited key: {}: null", key));
    d.seq_len = map.integer("seq_len", 1, kMaxSeqLen);  // read before its turn: a task is made for a length
    d.task = read_task(node, d.seq_len);
  };
  f.custom("task", Field::Type::map, "generated samples in place of files: {NAME: {its parameters}}", read,
           [&d] { return d.task ? d.task->to_yaml() : YamlNode(); });
}

void tokenizer(Fields& f, std::string& tokenizer, const Use& use) {
  const auto read = [&tokenizer](const YamlNode& node, const MapReader& map) {
    if (node.is_scalar() && node.scalar.starts_with("bpe:") && node.scalar != "bpe:")
      tokenizer = "bpe:" + expand_home(node.scalar.substr(4));
    else
      tokenizer = as_choice(node, map.name("tokenizer"), {"auto", "byte", "bpe:FILE", "ids"});
  };
  f.custom(
      "tokenizer", Field::Type::text,
      "byte; bpe:FILE, a tokenizer.json; ids: none is known; auto: byte for text, else that of the tokens",
      read, [&tokenizer] { return YamlNode::make(tokenizer); },
      {.use = use, .counts_as = YamlNode::make(tokenizer.starts_with("bpe:") ? "bpe:" : "byte")});
}

void fields(Fields& f, DataConfig& d, ModelType type) {
  task(f, d);
  const Use files{!d.task, "without task", "where data.task is given", "remove data.task"};
  paths(f, "train", d.train,
        "files, folders and globs to train on, or a list of them; a classifier's folders are its classes",
        true, {.use = files});
  paths(f, "val", d.val, "the same for validation", false, {.default_text = "a part of train", .use = files});
  const Use no_val{d.val.empty(), "without val", "where data.val is given", "remove data.val"};
  f.number("val_fraction", d.val_fraction, fraction(),
           "share of the files of train kept for validation; 0: none", {.use = files && no_val});
  f.word("format", d.format, "what the files are", {.use = files});
  tokenizer(f, d.tokenizer, files);
  f.integer("seq_len", required(d.seq_len), between(1, kMaxSeqLen), "length of a training sequence",
            {.unit = "tokens"});
  const Use documents{type != ModelType::encoder_classifier, "unless model.type: encoder_classifier",
                      "by type: encoder_classifier, where each file is one sample", ""};
  f.boolean("documents", d.documents, "attention stays inside a document; false: all text is one stream",
            {.use = files && documents});
  const Use repeated{!d.task || !d.task->fresh, "unless the task is fresh",
                     "by a task that draws new samples each epoch", "set its fresh: false"};
  f.boolean("shuffle", d.shuffle, "draw the sequences of each epoch in random order", {.use = repeated});
  f.number("mask_probability", d.mask_probability, above(0, 1),
           "share of the tokens that are to be predicted",
           {.use = files && with("model.type", type, ModelType::encoder_mlm)});
}

constexpr std::string_view kLikeRun = "as in train";

// All of an optimizer but which one it is. A group's are those of its run, if they have the same one.
void optimizer(Fields& f, OptimizerConfig& o, const OptimizerConfig* run = nullptr) {
  const bool like_run = run && run->optimizer == o.optimizer;
  const double decay = o.optimizer == OptimizerType::adamw ? 0.1 : 0.0;
  const Use adamw = with("optimizer", o.optimizer, OptimizerType::adamw),
            sgd = with("optimizer", o.optimizer, OptimizerType::sgd);
  betas(f, o.betas, adamw);
  f.number("eps", o.eps, above(0), "added to the root of the second moment", {.use = adamw});
  f.number("momentum", {o.momentum, like_run ? run->momentum : 0.9}, fraction(),
           "decay of the sum of past gradients", {.default_text = run ? kLikeRun : "0.9", .use = sgd});
  f.number("weight_decay", {o.weight_decay, like_run ? run->weight_decay : decay}, at_least(0),
           "of matrices, not of biases and norms", {.default_text = run ? kLikeRun : "0.1; sgd: 0"});
}

void fields(Fields& f, ParameterGroup& g, const OptimizerConfig& run) {
  name_patterns(f, g.names);
  f.word("optimizer", g.optimizer, "how they follow their gradients", {.default_text = kLikeRun});
  f.number("lr_factor", g.lr_factor, at_least(0), "times the learning rate; 0: they stay as they are");
  optimizer(f, g, &run);
}

void fields(Fields& f, TrainConfig& t, const DataConfig& data) {
  f.integer("steps", t.steps, at_least(1), "length of the training",
            {.unit = "steps", .default_text = "by epochs", .print = t.steps > 0});
  f.number("epochs", t.epochs, above(0), "its length in passes over the data, in place of steps",
           {.default_text = "by steps", .print = t.steps == 0});
  f.integer("batch_size", required(t.batch_size), between(1, 1 << 30), "size of a step's batch",
            {.unit = "sequences"});
  f.integer("micro_batch_size", {t.micro_batch_size, t.batch_size}, between(1, 1 << 30),
            "sequences of one forward pass; divides batch_size, and needs that much less memory",
            {.unit = "sequences", .default_text = "batch_size"});
  f.word("optimizer", t.optimizer, "how weights follow their gradients");
  f.number("lr", required(t.lr), above(0), "peak learning rate");
  optimizer(f, t);
  f.list(
      "groups", t.groups, ParameterGroup{t, {}, 1},
      [run = static_cast<const OptimizerConfig&>(t)](Fields& inner, ParameterGroup& group) {
        fields(inner, group, run);
      },
      "parameters with an optimizer of their own; one that several groups name is of the first");
  f.number("clip", t.clip, at_least(0), "largest norm of all gradients together; 0: any");
  f.word("schedule", t.schedule, "the learning rate after the warmup");
  f.number("min_lr", {t.min_lr, t.lr / 10}, at_least(0), "learning rate at the end, at most lr",
           {.default_text = "lr / 10",
            .use = {t.schedule != ScheduleType::constant, "unless schedule: constant",
                    "by schedule: constant", "choose another schedule"}});
  f.integer("warmup_steps", t.warmup_steps, at_least(0), "the learning rate rises to lr in these",
            {.unit = "steps", .default_text = "5 % of steps, <= 2000"});
  f.integer("decay_steps", t.decay_steps, at_least(1), "the learning rate falls to min_lr in these",
            {.unit = "steps",
             .default_text = "20 % of steps",
             .use = with("schedule", t.schedule, ScheduleType::wsd)});
  const Use validated{data.has_validation(), "with validation data", "without validation data",
                      "set data.val or data.val_fraction"},
      generated{data.task.has_value(), "with data.task", "by data that is read from files", "set data.task"};
  f.integer("eval_interval", t.eval_interval, at_least(0), "between evaluations; 0: only at the end",
            {.unit = "steps", .use = validated});
  f.integer("eval_batches", t.eval_batches, at_least(0), "size of an evaluation; 0: all validation data",
            {.unit = "micro batches", .use = validated});
  eval_lengths(f, t.eval_lengths, validated && generated);
  f.integer("log_interval", t.log_interval, at_least(1), "between lines of the log",
            {.unit = "steps", .counts_as = YamlNode::make(1)});
  f.path("init_from", t.init_from, "checkpoint or run folder that the first weights come from",
         {.default_text = "random weights", .print = !t.init_from.empty()});
  f.path("out", t.out, "folder of the run",
         {.default_text = "runs/NAME of the config", .counts_as = YamlNode::make("")});
}

void fields(Fields& f, CheckpointConfig& c, bool has_validation) {
  f.integer("interval", c.interval, at_least(0), "between checkpoints; 0: only at the end",
            {.unit = "steps", .counts_as = YamlNode::make(500)});
  f.integer("keep", c.keep, at_least(1), "newest checkpoints that are kept",
            {.counts_as = YamlNode::make(2)});
  f.boolean("best", {c.best, has_validation}, "keep the one of the lowest validation loss as well",
            {.default_text = "true with validation data", .counts_as = YamlNode::make(true)});
}

void fields(Fields& f, LogConfig& log) {
  f.boolean("tensorboard", log.tensorboard,
            "also write TensorBoard event files, to tensorboard in the run's folder",
            {.counts_as = YamlNode::make(false)});
}

YamlNode printed(Config config, FieldPrinter::Values values) {
  FieldPrinter printer(values);
  fields(printer, config);
  return printer.take();
}

}  // namespace

void fields(Fields& f, PatternFile& p) {
  f.custom(
      "pattern", Field::Type::map, "which keys each query sees: {NAME: {its parameters}}",
      [&p](const YamlNode& node, const MapReader&) { p.pattern.written = node; },
      [&p] { return p.pattern.written; });
  f.boolean("causal", p.causal, "a query sees no keys after it", {.default_text = "true; encoders: false"});
  f.integer("tile", p.tile, one_of({16, 32, 64, 128}), "side of the tiles that are computed or skipped",
            {.unit = "tokens"});
}

void fields(Fields& f, Config& c) {
  fields(f, static_cast<PatternFile&>(c));
  f.word("device", c.device, "what computes");
  f.word("precision", c.precision, "of the products");
  f.boolean("cuda_graph", c.cuda_graph, "launch a whole step at once, with device: cuda",
            {.counts_as = YamlNode::make(true)});
  f.integer("threads", c.threads, between(0, 1024), "threads of the CPU; 0: all cores",
            {.counts_as = YamlNode::make(0)});
  f.integer("seed", c.seed, at_least(0), "of the first weights, the order of the data, dropout and samples");
  f.section("model", "the shape of the model", true, [&] { fields(f, c.model); });
  f.section("data", "what it is trained on", true, [&] { fields(f, c.data, c.model.type); });
  f.section("train", "how it is trained", true, [&] { fields(f, c.train, c.data); });
  f.section("checkpoint", "what is saved", false, [&] { fields(f, c.checkpoint, c.data.has_validation()); });
  f.section("log", "what is told", false, [&] { fields(f, c.log); });
}

YamlNode Config::to_yaml() const {
  return printed(*this, FieldPrinter::Values::all);
}

YamlNode Config::counted() const {
  return printed(*this, FieldPrinter::Values::counted);
}

std::string config_hash(const Config& config) {
  const std::string text = to_yaml(config.counted());
  return hex64(xxhash64(text.data(), text.size()));
}

}  // namespace filigree
