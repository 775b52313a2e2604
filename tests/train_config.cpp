#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "train/config/config.h"
#include "train/config/tree.h"

using namespace filigree;

namespace {

namespace fs = std::filesystem;

// A folder of config files, removed at the end.
class Files {
 public:
  Files() : folder_(fs::temp_directory_path() / fmt::format("filigree_config_{}_{}", getpid(), count_++)) {
    fs::create_directories(folder_);
  }
  ~Files() { fs::remove_all(folder_); }
  fs::path write(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  fs::path path(const std::string& name) const { return folder_ / name; }

 private:
  static inline int count_ = 0;
  fs::path folder_;
};

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    return e.hint().empty() ? e.what() : std::string(e.what()) + " | " + e.hint();
  }
  return "no error";
}

const std::string kMinimal =
    "model: {dim: 64, n_layers: 2, n_heads: 4}\n"
    "data: {train: text, seq_len: 128}\n"
    "train: {steps: 100, batch_size: 8, lr: 1e-3}\n";

Config parse(const std::string& text) {
  return parse_config(parse_yaml(text, "c.yaml"), "c");
}
std::string error_of(const std::string& text) {
  return message_of([&] { parse(text); });
}

// The minimal config with further entries in its sections.
std::string with(const std::string& model, const std::string& data = "", const std::string& train = "",
                 const std::string& rest = "") {
  const auto more = [](const std::string& text) { return text.empty() ? "" : ", " + text; };
  return "model: {dim: 64, n_layers: 2, n_heads: 4" + more(model) + "}\n" +
         "data: {train: text, seq_len: 128" + more(data) + "}\n" +
         "train: {steps: 100, batch_size: 8, lr: 1e-3" + more(train) + "}\n" + rest;
}

}  // namespace

TEST(Config, FillsDefaults) {
  const Config c = parse(kMinimal);
  EXPECT_EQ(to_yaml(c.pattern), "full: {}\n");
  EXPECT_TRUE(c.causal);
  EXPECT_EQ(c.tile, 64);
  EXPECT_EQ(c.seed, 1);
  EXPECT_EQ(c.model.type, ModelType::decoder);
  EXPECT_EQ(c.model.n_kv_heads, 4);
  EXPECT_EQ(c.model.head_dim, 16);
  EXPECT_EQ(c.model.ffn_dim, 256);
  EXPECT_EQ(c.model.max_seq_len, 128);
  EXPECT_EQ(c.model.norm, NormKind::layer_norm);
  EXPECT_EQ(c.model.activation, Activation::gelu_tanh);
  EXPECT_EQ(c.model.positions, Positions::learned);
  EXPECT_TRUE(c.model.bias);
  EXPECT_TRUE(c.model.tied_embeddings);
  EXPECT_EQ(c.data.train, std::vector<std::string>{"text"});
  EXPECT_EQ(c.data.val_fraction, 0.05);
  EXPECT_EQ(c.train.micro_batch_size, 8);
  EXPECT_EQ(c.train.accumulation(), 1);
  EXPECT_EQ(c.train.min_lr, 1e-4);
  EXPECT_EQ(c.train.weight_decay, 0.1);
  EXPECT_EQ(c.train.warmup_steps, 5);
  EXPECT_FALSE(c.train.decay_steps.has_value());
  EXPECT_EQ(c.train.out, "runs/c");
  EXPECT_TRUE(c.checkpoint.best);
  EXPECT_EQ(*parse(with("", "", "", "").replace(with("").find("100"), 3, "1000000")).train.warmup_steps,
            2000);
}

TEST(Config, PresetsAndTypesChangeDefaults) {
  const Config llama = parse(with("preset: llama"));
  EXPECT_EQ(llama.model.norm, NormKind::rms_norm);
  EXPECT_EQ(llama.model.activation, Activation::swiglu);
  EXPECT_EQ(llama.model.ffn_dim, 192);  // 8/3 * 64 = 170.7
  EXPECT_EQ(llama.model.positions, Positions::rope);
  EXPECT_FALSE(llama.model.bias);
  EXPECT_FALSE(llama.model.tied_embeddings);
  EXPECT_TRUE(parse(with("preset: llama, bias: true")).model.bias);

  const Config mlm = parse(with("type: encoder_mlm"));
  EXPECT_FALSE(mlm.causal);
  EXPECT_EQ(mlm.data.mask_probability, 0.15);
  EXPECT_TRUE(parse(with("type: encoder_mlm", "", "", "causal: true\n")).causal);
  const Config classifier = parse(with("type: encoder_classifier, n_classes: 3"));
  EXPECT_EQ(classifier.model.n_classes, 3);
  EXPECT_FALSE(classifier.causal);

  const Config sgd = parse(with("", "", "optimizer: sgd, schedule: wsd"));
  EXPECT_EQ(sgd.train.momentum, 0.9);
  EXPECT_EQ(sgd.train.weight_decay, 0);
  EXPECT_EQ(sgd.train.decay_steps, 20);

  const Config no_validation = parse(with("", "val_fraction: 0"));
  EXPECT_FALSE(no_validation.checkpoint.best);
  EXPECT_FALSE(no_validation.data.has_validation());
  EXPECT_EQ(parse(with("", "val: [a, b]")).data.val.size(), 2u);
}

namespace {

// The minimal config with a generated task in place of files.
std::string with_task(const std::string& task, const std::string& data = "", const std::string& model = "") {
  return "model: {dim: 64, n_layers: 2, n_heads: 4" + (model.empty() ? "" : ", " + model) + "}\n" +
         "data: {task: " + task + ", seq_len: 128" + (data.empty() ? "" : ", " + data) + "}\n" +
         "train: {steps: 100, batch_size: 8, lr: 1e-3}\n";
}

}  // namespace

TEST(Config, ATaskTakesThePlaceOfFiles) {
  const Config c = parse(with_task("{mqar: {pairs: 5, samples: 300}}"));
  ASSERT_TRUE(c.data.task.has_value());
  EXPECT_EQ(c.data.task->task->name(), "mqar");
  EXPECT_EQ(c.data.task->samples, 300);
  EXPECT_EQ(c.data.task->val_samples, 3000);
  EXPECT_TRUE(c.data.task->fresh);
  EXPECT_TRUE(c.data.has_validation());
  EXPECT_TRUE(c.checkpoint.best);
  EXPECT_FALSE(parse(with_task("{mqar: {val_samples: 0}}")).data.has_validation());
  EXPECT_EQ(parse(with_task("induction")).data.task->task->name(), "induction");
  EXPECT_FALSE(parse(with_task("{induction: {fresh: false}}", "shuffle: false")).data.shuffle);
  EXPECT_NE(config_hash(c), config_hash(parse(with_task("{mqar: {pairs: 5, samples: 301}}"))));
  for (const char* text : {"{mqar: {pairs: 5}}", "induction", "{induction: {fresh: false}}",
                           "{planted: {rules: [{offset: 9}, {stride: 8, phase: 1}, {sink: 0}]}}"}) {
    const Config first = parse(with_task(text));
    EXPECT_EQ(parse_config(parse_yaml(to_yaml(first.to_yaml()), "again")), first) << text;
  }
  const Config classes =
      parse(with_task("{listops: {min_length: 9, max_length: 99}}", "", "type: encoder_classifier"));
  EXPECT_EQ(parse_config(parse_yaml(to_yaml(classes.to_yaml()), "again")), classes);

  const std::pair<std::string, std::string> mistakes[] = {
      {with_task("{mqar: {}}", "train: text"),
       "c.yaml:2:47: data.task and data.train are both given | remove one"},
      {with_task("{mqar: {}}", "val: text"), "c.yaml:2:45: data.task and data.val are both given"},
      {with_task("{mqar: {}}", "val_fraction: 0.1"),
       "c.yaml:2:40: data.val_fraction is not used where data.task is given"},
      {with_task("{mqar: {}}", "tokenizer: byte"), "c.yaml:2:40: data.tokenizer is not used"},
      {with_task("{mqar: {}}", "documents: true"), "c.yaml:2:40: data.documents is not used"},
      {with_task("{mqar: {}}", "shuffle: true"),
       "c.yaml:2:40: data.shuffle is not used by a task that draws new samples each epoch | remove it, or "
       "set "
       "its fresh: false"},
      {with_task("{mqar: {}}", "seqlen: 3"), "c.yaml:2:40: unknown key 'data.seqlen'"},
      {with_task("{mqra: {}}"), "c.yaml:2:15: unknown task 'mqra' | did you mean 'mqar'?"},
      {with_task("{mqar: {pairz: 3}}"), "c.yaml:2:22: unknown key 'data.task.mqar.pairz'"},
      {with_task("{mqar: {pairs: 33}}"), "c.yaml:2:21: data.task.mqar: 33 pairs"},
      {with_task("{mqar: {}}", "", "type: encoder_classifier"),
       "c.yaml:2:14: the task 'mqar' is one for model.type: decoder, not encoder_classifier"},
      {with_task("{listops: {min_length: 9, max_length: 99}}"),
       "c.yaml:2:14: the task 'listops' is one for model.type: encoder_classifier, not decoder"},
      {with("", "tsk: mqar"), "c.yaml:2:35: unknown key 'data.tsk'"},
  };
  for (const auto& [text, expected] : mistakes)
    EXPECT_TRUE(error_of(text).starts_with(expected)) << error_of(text) << "\n" << text;

  // Another task replaces the one of the base; a parameter of the same one is set where it stands.
  const Files files;
  const fs::path base = files.write("c.yaml", with_task("{mqar: {pairs: 5}}"));
  EXPECT_EQ(
      load_config(base, {"data.task.mqar.vocab=64"}).data.task->to_yaml().find("mqar")->find("pairs")->scalar,
      "5");
  EXPECT_EQ(load_config(base, {"data.task={induction: {vocab: 9}}"}).data.task->task->vocab_size(), 9);
  EXPECT_EQ(load_config(files.write("d.yaml", "extends: c.yaml\ndata: {task: induction}\n"))
                .data.task->task->name(),
            "induction");
}

TEST(Config, LengthsToEvaluateAt) {
  const auto text = [](const std::string& lengths, const std::string& model = "positions: rope",
                       const std::string& task = "{mqar: {pairs: 5}}") {
    std::string config = with_task(task, "", model);
    config.insert(config.rfind('}'), ", eval_lengths: " + lengths);
    return config;
  };
  const Config c = parse(text("[64, 1024]"));
  EXPECT_EQ(c.train.eval_lengths, (std::vector<std::int64_t>{64, 1024}));
  EXPECT_EQ(parse_config(parse_yaml(to_yaml(c.to_yaml()), "again")), c);
  EXPECT_NE(config_hash(c), config_hash(parse(text("[1024, 64]"))));
  EXPECT_EQ(c.model.max_seq_len, 128);

  const Config there = at_length(c, 1000);
  EXPECT_EQ(there.data.seq_len, 1000);
  EXPECT_EQ(there.train.micro_batch_size, 1) << "8 sequences of 128 tokens are 1024 tokens";
  EXPECT_EQ(at_length(c, 64).train.micro_batch_size, 16);
  EXPECT_EQ(parse(text("[100]", "max_seq_len: 128")).train.eval_lengths.size(), 1u);
  EXPECT_EQ(parse(text("[256]", "max_seq_len: 256")).train.eval_lengths.size(), 1u);

  const std::pair<std::string, std::string> mistakes[] = {
      {text("64"), "c.yaml:3:60: train.eval_lengths must be a list of lengths | for example [512, "},
      {text("[]"), "c.yaml:3:60: train.eval_lengths must be a list of lengths"},
      {text("[64, big]"), "c.yaml:3:65: train.eval_lengths must be an integer, not 'big'"},
      {text("[64, 0]"), "c.yaml:3:65: train.eval_lengths must be"},
      {text("[64, 64]"), "c.yaml:3:65: train.eval_lengths lists 64 twice"},
      {text("[64, 8]"),
       "c.yaml:3:65: train.eval_lengths: at 8 tokens: data.task.mqar: 5 pairs (2 tokens each, and 2 for each "
       "query) need 20 tokens, data.seq_len is 8 | remove this length"},
      {text("[256]", "positions: learned"),
       "c.yaml:3:61: train.eval_lengths: at 256 tokens: learned positions end at model.max_seq_len, 128"},
      {text("[256]", "positions: rope", "{mqar: {val_samples: 0}}"),
       "c.yaml:3:46: train.eval_lengths is not used without validation data"},
      {text("[256]", "positions: rope") + "pattern: {global: {positions: [127]}}\n", ""},
      {text("[128, 64]", "positions: rope") + "pattern: {global: {positions: [127]}}\n",
       "c.yaml:3:66: train.eval_lengths: c.yaml:4:31: global.positions names token 127"},
  };
  for (const auto& [config, expected] : mistakes)
    EXPECT_TRUE(expected.empty() ? parse(config).train.eval_lengths.size() == 1
                                 : error_of(config).starts_with(expected))
        << error_of(config) << "\n"
        << config;
}

struct Mistake {
  std::string text;
  std::string expected;  // the message starts with it, or contains it after "..."
};

TEST(Config, EveryMistakeIsNamedWhereItStands) {
  const Mistake mistakes[] = {
      // keys
      {with("", "", "", "modle: 3\n"), "c.yaml:4:1: unknown key 'modle' | did you mean 'model'?"},
      {"modle: {}\n", "c.yaml:1:1: unknown key 'modle' | did you mean 'model'?"},
      {with("n_layer: 3"), "c.yaml:1:43: unknown key 'model.n_layer' | did you mean 'n_layers'?"},
      {with("rope_teta: 3"), "c.yaml:1:43: unknown key 'model.rope_teta' | did you mean 'rope_theta'?"},
      {with("", "seqlen: 3"), "c.yaml:2:35: unknown key 'data.seqlen' | did you mean 'seq_len'?"},
      {with("", "", "warmup: 3"), "c.yaml:3:46: unknown key 'train.warmup' | known keys: "},
      {with("", "", "warmup_step: 3"),
       "c.yaml:3:46: unknown key 'train.warmup_step' | did you mean 'warmup_steps'?"},
      {with("", "", "", "checkpoint: {intervall: 3}\n"),
       "... unknown key 'checkpoint.intervall' | did you mean 'interval'?"},
      {with("", "", "", "log: {tensorbord: true}\n"),
       "... unknown key 'log.tensorbord' | did you mean 'tensorboard'?"},
      {with("", "", "", "log: {tensorboard: 1}\n"), "c.yaml:4:20: log.tensorboard must be true or false"},
      {with("", "", "", "logs: []\n"), "c.yaml:4:1: unknown key 'logs'"},
      {with("", "", "", "extends: a.yaml\n"), "c.yaml:4:1: unknown key 'extends'"},
      {with("dim: 32"), "c.yaml:1:43: duplicate key 'dim' | it is already set at c.yaml:1:9"},
      {"model: {dim: 64, n_layers: 2, nheads: 4}\ndata: {train: t, seq_len: 8}\ntrain: {steps: 1, "
       "batch_size: 1, lr: 1}\n",
       "c.yaml:1:31: unknown key 'model.nheads' | did you mean 'n_heads'?"},
      {"data: {}\ntrain: {}\n", "c.yaml:1:1: model is missing | add 'model:'"},
      {"model: {dim: 64}\ndata: {train: t, seq_len: 8}\ntrain: {}\n",
       "c.yaml:1:8: model.n_layers is missing"},
      {"model: {dim: 4, n_layers: 1, n_heads: 1}\ndata: {train: t, seq_len: 8}\ntrain: {batch_size: 1, lr: "
       "1}\n",
       "c.yaml:3:8: train.steps is missing | add 'steps:' or 'epochs:'"},
      // types
      {with("", "", "", "tile: big\n"), "c.yaml:4:7: tile must be an integer, not 'big'"},
      {with("", "", "", "causal: yes\n"), "c.yaml:4:9: causal must be true or false, not 'yes'"},
      {with("", "", "", "threads: 2.5\n"), "c.yaml:4:10: threads must be an integer, not '2.5'"},
      {with("", "", "", "seed: '1'\n"),
       "c.yaml:4:7: seed must be an integer, not the text \"1\" | remove the quotes"},
      {with("", "", "", "checkpoint: 3\n"), "c.yaml:4:13: checkpoint must be a map"},
      {with("", "val: {a: b}"), "c.yaml:2:40: data.val must be a text, not a map"},
      {with("", "val: 12"), "c.yaml:2:40: data.val must be a text, not '12' | write it in quotes: \"12\""},
      {with("", "val: []"), "c.yaml:2:40: data.val names no file"},
      {with("", "val: ['']"), "... data.val has an empty path"},
      {with("ffn_dim: 1.5e0"), "c.yaml:1:52: model.ffn_dim must be an integer, not '1.5e0'"},
      {with("ffn_dim: 017"), "... model.ffn_dim must be an integer, not '017' | remove the leading zeros"},
      {with("ffn_dim:"), "... model.ffn_dim must be an integer, not nothing"},
      {with("", "", "clip: nan"), "... train.clip must be a number, not 'nan'"},
      {with("", "", "betas: 0.9"), "... train.betas must be a list of two numbers"},
      {with("", "", "betas: [0.9]"), "... train.betas must be a list of two numbers"},
      {with("", "", "betas: [0.9, x]"), "c.yaml:3:59: train.betas must be a number, not 'x'"},
      {"model: [1]\ndata: {train: t, seq_len: 8}\ntrain: {}\n", "c.yaml:1:8: model must be a map"},
      {"- a\n", "c.yaml:1:1: the document must be a map"},
      // choices
      {with("type: decodr"),
       "c.yaml:1:49: model.type must be one of decoder, encoder_mlm, encoder_classifier, not "
       "'decodr' | did you mean 'decoder'?"},
      {with("preset: gtp2"), "... did you mean 'gpt2'?"},
      {with("norm: rmsnorm"), "... did you mean 'rms_norm'?"},
      {with("activation: relu"),
       "... model.activation must be one of gelu, gelu_tanh, silu, swiglu, not 'relu'"},
      {with("positions: roep"), "... did you mean 'rope'?"},
      {with("", "", "optimizer: adam"), "... did you mean 'adamw'?"},
      {with("", "", "schedule: cosin"), "... did you mean 'cosine'?"},
      {with("", "format: txt"), "... did you mean 'text'?"},
      {with("", "tokenizer: bite"), "... did you mean 'byte'?"},
      {with("", "tokenizer: 'bpe:'"), "... data.tokenizer must be one of auto, byte, bpe:FILE, ids"},
      {with("", "tokenizer: gpt2.json"), "... data.tokenizer must be one of auto, byte, bpe:FILE, ids"},
      {with("", "", "", "device: gpu\n"), "c.yaml:4:9: device must be one of cpu, auto, cuda, not 'gpu'"},
      // ranges
      {with("", "", "", "tile: 48\n"), "c.yaml:4:7: tile must be one of 16, 32, 64, 128, not 48"},
      {with("", "", "", "tile: 256\n"), "c.yaml:4:7: tile must be between 16 and 128, not '256'"},
      {with("", "", "", "threads: -1\n"), "... threads must be between 0 and 1024, not '-1'"},
      {with("", "", "", "seed: -1\n"), "... seed must be at least 0, not '-1'"},
      {with("dropout: 1"), "c.yaml:1:52: model.dropout must be below 1"},
      {with("dropout: 1.5"), "... model.dropout must be between 0 and 1, not '1.5'"},
      {with("norm_eps: 0"), "... model.norm_eps must be above 0"},
      {with("n_kv_heads: 0"), "... model.n_kv_heads must be between 1 and 10000, not '0'"},
      {with("", "val_fraction: 1"), "... data.val_fraction must be below 1"},
      {with("", "", "warmup_steps: -1"), "... train.warmup_steps must be at least 0"},
      {with("", "", "weight_decay: -0.1"), "... train.weight_decay must be at least 0, not '-0.1'"},
      {with("", "", "betas: [0.9, 1]"), "... train.betas must be below 1"},
      {with("", "", "eps: 0"), "... train.eps must be above 0"},
      {with("", "", "log_interval: 0"), "... train.log_interval must be at least 1"},
      {with("", "", "", "checkpoint: {keep: 0}\n"), "c.yaml:4:20: checkpoint.keep must be at least 1"},
      {with("type: encoder_mlm", "mask_probability: 0"), "... data.mask_probability must be above 0"},
      {with("type: encoder_mlm", "mask_probability: 1.1"), "... data.mask_probability must be at most 1"},
      {with("type: encoder_classifier, n_classes: 1"),
       "... model.n_classes must be 0 (as the data has) or at least 2"},
      // what the chosen option does not use
      {with("n_classes: 3"),
       "c.yaml:1:43: model.n_classes is not used by type: decoder | remove it, or set type: "
       "encoder_classifier"},
      {with("rope_theta: 500"), "c.yaml:1:43: model.rope_theta is not used by positions: learned"},
      {with("type: encoder_classifier, tied_embeddings: false"),
       "... model.tied_embeddings is not used by type: encoder_classifier"},
      {with("", "mask_probability: 0.2"), "c.yaml:2:35: data.mask_probability is not used by type: decoder"},
      {with("type: encoder_classifier", "documents: true"), "c.yaml:2:35: data.documents is not used"},
      {with("", "val: a, val_fraction: 0.1"),
       "c.yaml:2:43: data.val_fraction is not used where data.val is given"},
      {with("", "", "momentum: 0.9"),
       "c.yaml:3:46: train.momentum is not used by optimizer: adamw | remove it, or set optimizer: sgd"},
      {with("", "", "optimizer: sgd, betas: [0.9, 0.9]"),
       "c.yaml:3:62: train.betas is not used by optimizer: sgd"},
      {with("", "", "optimizer: sgd, eps: 1e-8"), "... train.eps is not used by optimizer: sgd"},
      {with("", "", "decay_steps: 10"), "c.yaml:3:46: train.decay_steps is not used by schedule: cosine"},
      {with("", "", "schedule: constant, min_lr: 0"), "... train.min_lr is not used by schedule: constant"},
      {with("", "val_fraction: 0", "eval_interval: 5"),
       "c.yaml:3:46: train.eval_interval is not used without validation data"},
      {with("", "", "eval_lengths: [5]"),
       "c.yaml:3:46: train.eval_lengths is not used by data that is read from files | remove it, or set "
       "data.task"},
      {with("", "val_fraction: 0", "", "checkpoint: {best: true}\n"),
       "c.yaml:4:20: checkpoint.best needs validation data"},
      // values against each other
      {with("head_dim: 15, positions: rope"), "c.yaml:1:53: positions: rope turns pairs"},
      {with("n_kv_heads: 3"), "c.yaml:1:55: model.n_kv_heads must divide model.n_heads: 4 / 3 leaves 1"},
      {"model: {dim: 65, n_layers: 2, n_heads: 4}\ndata: {train: t, seq_len: 8}\ntrain: {steps: 1, "
       "batch_size: 1, lr: 1}\n",
       "c.yaml:1:40: model.n_heads must divide model.dim: 65 / 4 leaves 1 | change one of them, or set "
       "model.head_dim"},
      {with("max_seq_len: 64"), "c.yaml:1:56: model.max_seq_len must be at least data.seq_len (128), not 64"},
      {with("", "", "micro_batch_size: 3"),
       "c.yaml:3:64: train.micro_batch_size must divide train.batch_size: 8 / 3 leaves 2"},
      {with("", "", "micro_batch_size: 16"), "... train.micro_batch_size must divide train.batch_size"},
      {with("", "", "epochs: 2"), "c.yaml:3:54: train.epochs and train.steps are both given"},
      {with("", "", "warmup_steps: 100"),
       "c.yaml:3:60: train.warmup_steps (100) must be below train.steps (100)"},
      {with("", "", "schedule: wsd, decay_steps: 99"),
       "c.yaml:3:74: train.decay_steps (99) must be at most steps - warmup_steps (95)"},
      {with("", "", "min_lr: 0.1"), "... train.min_lr must be at most train.lr (0.001)"},
      {with("", "", "out: ''"), "... train.out is empty"},
      {with("", "", "init_from: ''"), "c.yaml:3:57: train.init_from is empty | name a checkpoint file"},
      {with("", "", "init_from: [a]"), "c.yaml:3:57: train.init_from must be a text"},
      {with("", "", "init_form: a"), "... did you mean 'init_from'?"},
      {with("", "", "", "causal: false\n"), "c.yaml:4:9: a decoder predicts the next token"},
      // patterns
      {with("", "", "", "pattern: {locl: {window: 3}}\n"), "... 'local'"},
      {with("", "", "", "pattern: {local: {window: 0}}\n"), "c.yaml:4:27: "},
      {with("", "", "", "pattern: {local: {window: 3, stride: 2}}\n"),
       "c.yaml:4:30: unknown key 'local.stride'"},
      {with("", "", "", "pattern: {heads: [{count: 3, pattern: {full: {}}}]}\n"), "c.yaml:4:"},
  };
  for (const auto& [text, expected] : mistakes) {
    const std::string message = error_of(text);
    if (expected.starts_with("... ")) {
      EXPECT_NE(message.find(expected.substr(4)), std::string::npos) << text << message;
      EXPECT_TRUE(message.starts_with("c.yaml:")) << text << message;
    } else {
      EXPECT_TRUE(message.starts_with(expected)) << text << message << "\nexpected " << expected;
    }
  }
}

// --- files ---

TEST(Config, ExtendsMergesMapsAndReplacesTheRest) {
  const Files files;
  files.write("base/base.yaml", kMinimal + "pattern: {longformer: {window: 8, global: 2}}\n");
  files.write(
      "mid.yaml",
      "extends: base/base.yaml\ndata: {train: [x, y], val: v}\ntrain: {optimizer: sgd, momentum: 0.5}\n");
  const fs::path leaf = files.write("leaf.yaml",
                                    "extends: mid.yaml\npattern: {local: {window: 4}}\ntrain: {lr: 0.5, "
                                    "momentum: null, steps: null, epochs: 2}\n");
  const Config c = load_config(leaf);
  EXPECT_EQ(c.model.dim, 64);
  EXPECT_EQ(to_yaml(c.pattern), "local: {window: 4}\n");
  EXPECT_EQ(c.data.train, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(c.train.optimizer, OptimizerType::sgd);
  EXPECT_EQ(c.train.momentum, 0.9);
  EXPECT_EQ(c.train.lr, 0.5);
  EXPECT_EQ(c.train.epochs, 2);
  EXPECT_EQ(c.train.steps, 0);
  EXPECT_EQ(c.train.out, "runs/leaf");
}

TEST(Config, ErrorsNameTheFileThatTheKeyCameFrom) {
  const Files files;
  const fs::path base = files.write("base.yaml", kMinimal + "tile: 48\n");
  const fs::path leaf = files.write("leaf.yaml", "extends: base.yaml\n\nseed: -3\n");
  EXPECT_TRUE(message_of([&] { load_config(leaf); }).starts_with(base.string() + ":4:7: tile must be"));
  files.write("base.yaml", kMinimal);
  EXPECT_TRUE(message_of([&] { load_config(leaf); }).starts_with(leaf.string() + ":3:7: seed must be"));
  files.write("base.yaml", kMinimal + "a: 1\na: 1\n");
  EXPECT_TRUE(message_of([&] { load_config(leaf); }).starts_with(base.string() + ":5:1: duplicate key 'a'"));
  files.write("base.yaml", kMinimal + "extends: leaf.yaml\n");
  EXPECT_NE(message_of([&] { load_config(leaf); }).find("base.yaml:4:10: extends: leaf.yaml comes back"),
            std::string::npos);
  files.write("base.yaml", kMinimal + "extends: ./base.yaml\n");
  EXPECT_NE(message_of([&] { load_config(base); }).find("comes back"), std::string::npos);
  files.write("base.yaml", kMinimal + "extends: [a.yaml]\n");
  EXPECT_NE(message_of([&] { load_config(base); }).find("base.yaml:4:10: extends must be a text"),
            std::string::npos);
  files.write("base.yaml", kMinimal + "extends: no/such.yaml\n");
  EXPECT_NE(message_of([&] { load_config(base); }).find("base.yaml:4:10: extends: "), std::string::npos);
  EXPECT_NE(message_of([&] { load_config(files.path("none.yaml")); }).find("none.yaml: cannot be opened"),
            std::string::npos);
  files.write("base.yaml", "");
  EXPECT_NE(message_of([&] { load_config(base); }).find("base.yaml:1:1: model is missing"),
            std::string::npos);
  for (int i = 0; i < 20; ++i)
    files.write(fmt::format("{}.yaml", i), fmt::format("extends: {}.yaml\n", i + 1));
  EXPECT_NE(message_of([&] { load_config(files.path("0.yaml")); }).find("a chain of more than 16 files"),
            std::string::npos);
}

TEST(Config, OverridesComeLast) {
  const Files files;
  const fs::path path = files.write("c.yaml", kMinimal + "pattern: {longformer: {window: 8, global: 2}}\n");
  const auto load = [&](const std::vector<std::string>& overrides) { return load_config(path, overrides); };
  EXPECT_EQ(load({"train.steps=200", "train.steps=300"}).train.steps, 300);
  EXPECT_EQ(load({"model={dim: 128}"}).model.dim, 128);
  EXPECT_EQ(load({"model={dim: 128}"}).model.n_heads, 4);
  EXPECT_EQ(load({"checkpoint.keep=7"}).checkpoint.keep, 7);
  EXPECT_EQ(load({"train.betas=[0.8, 0.9]"}).train.betas[0], 0.8);
  EXPECT_EQ(load({"train.out=a=b"}).train.out, "a=b");
  EXPECT_EQ(load({"train.steps=null", "train.epochs=1.5"}).train.epochs, 1.5);
  // As prepare tells everyone to write it, whether their config has a val_fraction or not.
  EXPECT_EQ(load({"data.val=[v]", "data.val_fraction=null"}).data.val, std::vector<std::string>{"v"});
  EXPECT_EQ(to_yaml(load({"pattern={local: {window: 64}}"}).pattern), "local: {window: 64}\n");
  EXPECT_EQ(to_yaml(load({"pattern.longformer.window=16"}).pattern), "longformer: {window: 16, global: 2}\n");

  const std::pair<std::string, std::string> bad[] = {
      {"train.stps=3",
       "command line override 'train.stps=3': unknown key 'train.stps' | did you mean 'steps'?"},
      {"trian.steps=3", "command line override 'trian.steps=3': unknown key 'trian' | did you mean 'train'?"},
      {"train.steps=3k", "command line override 'train.steps=3k': train.steps must be an integer, not '3k'"},
      {"train.lr.x=3", "command line override 'train.lr.x=3': 'lr' is a value and has no keys"},
      {"train.steps", "command line override 'train.steps': an override is written key=value"},
      {"=3", "command line override '=3': an override is written key=value"},
      {"train..steps=3", "command line override 'train..steps=3': a key is empty"},
      {"train.=3", "command line override 'train.=3': a key is empty"},
      {"train.steps=", "command line override 'train.steps=': the value is missing"},
      {"train.steps= ", "command line override 'train.steps= ': the value is missing"},
      {"train.betas=[1", "command line override 'train.betas=[1'"},
      {"train.lr=*a", "command line override 'train.lr=*a'"},
      {"pattern={local: {widow: 3}}", "command line override 'pattern={local: {widow: 3}}': unknown key"},
  };
  for (const auto& [text, expected] : bad) {
    const std::string message = message_of([&, t = text] { load({t}); });
    EXPECT_TRUE(message.starts_with(expected)) << message;
  }
}

TEST(Config, PatternFiles) {
  const Files files;
  const auto file =
      load_pattern_file(files.write("p.yaml", "causal: false\npattern: {local: {window: 3}}\ntile: 32\n"));
  ASSERT_TRUE(file.has_value());
  EXPECT_FALSE(file->causal);
  EXPECT_EQ(file->tile, 32);
  EXPECT_EQ(to_yaml(file->pattern), "local: {window: 3}\n");
  EXPECT_FALSE(load_pattern_file(files.write("c.yaml", kMinimal)).has_value());
  const fs::path bad = files.write("bad.yaml", "patern: {full: {}}\n");
  EXPECT_EQ(message_of([&] { load_pattern_file(bad); }),
            bad.string() + ":1:1: unknown key 'patern' | did you mean 'pattern'?");
  files.write("bad.yaml", "pattern: {full: {}}\nn: 3\n");
  EXPECT_TRUE(
      message_of([&] { load_pattern_file(bad); }).starts_with(bad.string() + ":2:1: unknown key 'n'"));
}

TEST(Config, TheShippedConfigsLoad) {
  int count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(FILIGREE_SOURCE_DIR "/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    if (parse_yaml_file(entry.path()).find("axes")) continue;  // sweeps: ReadySweeps
    if (load_pattern_file(entry.path())) continue;
    const Config c = load_config(entry.path());
    EXPECT_EQ(parse_config(parse_yaml(to_yaml(c.to_yaml()), "again")), c) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 3);
}

// --- round trip and hash ---

namespace {

using Random = std::mt19937_64;
int below(Random& rng, int n) {
  return static_cast<int>(rng() % static_cast<unsigned>(n));
}
bool coin(Random& rng) {
  return below(rng, 2) == 0;
}
double fraction(Random& rng) {
  return std::ldexp(static_cast<double>(rng() >> 11), -53);
}

YamlNode number(double value) {
  return YamlNode::make(value);
}

// A random valid config that sets about half of the keys it may set.
YamlNode random_config(Random& rng) {
  YamlNode root = YamlNode::make_map(), model = root, data = root, train = root, checkpoint = root;
  const auto maybe = [&](YamlNode& map, const char* key, YamlNode value) {
    if (coin(rng)) map.add(key, std::move(value));
  };
  const auto pick = [&](std::initializer_list<const char*> list) {
    return std::string(list.begin()[below(rng, static_cast<int>(list.size()))]);
  };

  const std::string type = pick({"decoder", "encoder_mlm", "encoder_classifier"});
  const std::string positions = pick({"learned", "rope", "alibi", "none"});
  const int kv = 1 << below(rng, 3), heads = kv * (1 + below(rng, 3)), seq_len = 1 + below(rng, 300);
  model.add("type", YamlNode::make(type)).add("positions", YamlNode::make(positions));
  model.add("dim", YamlNode::make(heads * 2 * (1 + below(rng, 9))))
      .add("n_layers", YamlNode::make(1 + below(rng, 4)));
  model.add("n_heads", YamlNode::make(heads));
  maybe(model, "n_kv_heads", YamlNode::make(kv));
  maybe(model, "head_dim", YamlNode::make(2 + 2 * below(rng, 20)));
  maybe(model, "ffn_dim", YamlNode::make(1 + below(rng, 500)));
  maybe(model, "vocab_size", YamlNode::make(below(rng, 5000)));
  maybe(model, "max_seq_len", YamlNode::make(seq_len + below(rng, 50)));
  maybe(model, "preset", YamlNode::make(pick({"gpt2", "llama"})));
  maybe(model, "norm", YamlNode::make(pick({"layer_norm", "rms_norm"})));
  maybe(model, "norm_eps", number(1e-9 + fraction(rng)));
  maybe(model, "activation", YamlNode::make(pick({"gelu", "gelu_tanh", "silu", "swiglu"})));
  maybe(model, "bias", YamlNode::make(coin(rng)));
  maybe(model, "dropout", number(fraction(rng)));
  maybe(model, "activation_checkpointing", YamlNode::make(coin(rng)));
  if (positions == "rope") maybe(model, "rope_theta", number(1 + 1e6 * fraction(rng)));
  if (type == "encoder_classifier")
    maybe(model, "n_classes", YamlNode::make(2 + below(rng, 9)));
  else
    maybe(model, "tied_embeddings", YamlNode::make(coin(rng)));

  YamlNode paths = YamlNode::make_sequence();
  for (int n = 1 + below(rng, 3); n > 0; --n)
    paths.items.push_back(YamlNode::make(pick({"~/a b/*.txt", "x", "12", "t: #", "é"})));
  data.add("train", coin(rng) ? paths : paths.items[0]).add("seq_len", YamlNode::make(seq_len));
  const bool val = coin(rng), val_fraction = !val && coin(rng);
  if (val) data.add("val", std::move(paths));
  const double share = coin(rng) ? 0 : fraction(rng);
  if (val_fraction) data.add("val_fraction", number(share));
  const bool validation = !val_fraction || share > 0;
  maybe(data, "format", YamlNode::make(pick({"auto", "text", "hdf5", "bin"})));
  maybe(data, "shuffle", YamlNode::make(coin(rng)));
  if (type != "encoder_classifier") maybe(data, "documents", YamlNode::make(coin(rng)));
  if (type == "encoder_mlm") maybe(data, "mask_probability", number(0.001 + 0.99 * fraction(rng)));

  const std::string schedule = pick({"cosine", "linear", "wsd", "constant"}),
                    optimizer = pick({"adamw", "sgd"});
  const int micro = 1 + below(rng, 5), steps = 10 + below(rng, 100000);
  const double lr = 1e-6 + fraction(rng);
  train.add("lr", number(lr)).add("batch_size", YamlNode::make(micro * (1 + below(rng, 5))));
  if (coin(rng))
    train.add("steps", YamlNode::make(steps));
  else
    train.add("epochs", number(0.01 + 5 * fraction(rng)));
  maybe(train, "micro_batch_size", YamlNode::make(micro));
  train.add("optimizer", YamlNode::make(optimizer)).add("schedule", YamlNode::make(schedule));
  maybe(train, "weight_decay", number(fraction(rng)));
  maybe(train, "clip", number(coin(rng) ? 0 : fraction(rng)));
  if (optimizer == "sgd") maybe(train, "momentum", number(fraction(rng)));
  if (optimizer == "adamw") maybe(train, "eps", number(1e-12 + 1e-3 * fraction(rng)));
  if (schedule != "constant") maybe(train, "min_lr", number(lr * fraction(rng)));
  maybe(train, "warmup_steps", YamlNode::make(below(rng, 5)));
  if (schedule == "wsd") maybe(train, "decay_steps", YamlNode::make(1 + below(rng, 4)));
  if (validation) maybe(train, "eval_interval", YamlNode::make(below(rng, 500)));
  if (validation) maybe(train, "eval_batches", YamlNode::make(below(rng, 500)));
  maybe(train, "log_interval", YamlNode::make(1 + below(rng, 500)));
  maybe(train, "init_from", YamlNode::make(pick({"runs/x", "a b.h5", "12"})));
  maybe(train, "out", YamlNode::make(pick({"runs/x", "a b", "2024", "~/r"})));
  maybe(checkpoint, "interval", YamlNode::make(below(rng, 500)));
  maybe(checkpoint, "keep", YamlNode::make(1 + below(rng, 5)));
  maybe(checkpoint, "best", YamlNode::make(validation && coin(rng)));

  root.add("model", std::move(model)).add("data", std::move(data)).add("train", std::move(train));
  if (coin(rng)) root.add("checkpoint", std::move(checkpoint));
  maybe(root, "log", parse_yaml(pick({"{tensorboard: true}", "{tensorboard: false}", "{}"}), "log"));
  maybe(root, "tile", YamlNode::make(16 << below(rng, 4)));
  maybe(root, "device", YamlNode::make(pick({"cpu", "auto", "cuda"})));
  maybe(root, "threads", YamlNode::make(below(rng, 9)));
  maybe(root, "seed", YamlNode::make(static_cast<std::int64_t>(rng() >> 1)));
  if (type != "decoder") maybe(root, "causal", YamlNode::make(coin(rng)));
  maybe(root, "pattern",
        parse_yaml(pick({"{local: {window: 3}}", "{union: [{local: {window: 2}}, {strided: {stride: 5}}]}"}),
                   "p"));
  return root;
}

}  // namespace

TEST(Config, ResolvedConfigsRoundTrip) {
  const std::uint64_t seed = std::random_device{}();
  for (std::uint64_t i = 0; i < 500; ++i) {
    SCOPED_TRACE(fmt::format("seed {}", seed + i));
    Random rng(seed + i);
    const YamlNode tree = random_config(rng);
    SCOPED_TRACE(to_yaml(tree));
    const Config first = parse_config(tree);
    const std::string text = to_yaml(first.to_yaml());
    const Config second = parse_config(parse_yaml(text, "resolved"));
    ASSERT_EQ(second, first) << text;
    ASSERT_EQ(to_yaml(second.to_yaml()), text);
    ASSERT_EQ(config_hash(second), config_hash(first));
    // Every key that was set is printed with its value, but `preset`, which only sets defaults.
    for (const std::string& line : differences(tree, first.to_yaml()))
      ASSERT_TRUE(line.find(": - / ") != std::string::npos || line.starts_with("model.preset: ") ||
                  line.starts_with("data.train: ") || line.starts_with("train.out: ~/r / "))
          << line;
    const Config known = resolve_steps(first, 1000);
    ASSERT_GT(known.train.steps, 0);
    ASSERT_TRUE(known.train.warmup_steps.has_value());
    ASSERT_EQ(parse_config(known.to_yaml()), known);
  }
}

TEST(Config, EpochsBecomeSteps) {
  std::string text = kMinimal;
  text.replace(text.find("steps: 100"), 10, "epochs: 1.5");
  const Config c = parse(text);
  EXPECT_FALSE(c.train.warmup_steps.has_value());
  const Config known = resolve_steps(c, 101);
  EXPECT_EQ(known.train.steps, 152);
  EXPECT_EQ(known.train.epochs, 0);
  EXPECT_EQ(known.train.warmup_steps, 7);
  EXPECT_NE(message_of([&] { resolve_steps(c, 0); }).find("is not a number of steps"), std::string::npos);
  Config late = c;
  late.train.warmup_steps = 500;
  EXPECT_NE(message_of([&] { resolve_steps(late, 101); }).find("train.warmup_steps (500) must be below"),
            std::string::npos);
}

TEST(Config, HashFollowsWhatIsComputed) {
  const std::string hash = config_hash(parse(kMinimal));
  EXPECT_EQ(hash.size(), 16u);
  for (const char* same : {"threads: 2\n", "checkpoint: {interval: 3, keep: 9, best: false}\n",
                           "causal: true\n", "log: {tensorboard: true}\n"})
    EXPECT_EQ(config_hash(parse(kMinimal + same)), hash) << same;
  EXPECT_EQ(config_hash(parse(with("", "", "out: elsewhere, log_interval: 3"))), hash);
  EXPECT_EQ(config_hash(parse_config(parse_yaml(kMinimal, "other.yaml"), "other")), hash);
  // A tokenizer's content is compared elsewhere; that it is one is not where it lies.
  const std::string bpe = config_hash(parse(with("", "tokenizer: 'bpe:a.json'")));
  EXPECT_EQ(config_hash(parse(with("", "tokenizer: 'bpe:b.json'"))), bpe);
  EXPECT_NE(bpe, hash);
  // Configs of older versions say byte where newer ones say auto, or ids.
  for (const char* word : {"auto", "byte", "ids"})
    EXPECT_EQ(config_hash(parse(with("", fmt::format("tokenizer: {}", word)))), hash) << word;
  for (const char* other : {"seed: 2\n", "tile: 32\n", "pattern: {local: {window: 2}}\n"})
    EXPECT_NE(config_hash(parse(kMinimal + other)), hash) << other;
  EXPECT_NE(config_hash(parse(with("ffn_dim: 300"))), hash);
  EXPECT_NE(config_hash(parse(with("", "", "clip: 2"))), hash);
  EXPECT_NE(config_hash(parse(with("", "", "init_from: runs/x"))), hash);
}

TEST(Config, GroupsOfParameters) {
  const Config c = parse(with("", "", R"(eps: 1e-6, weight_decay: 0.3, groups: [
    {names: ["*.norm?.weight", head.weight], lr_factor: 0.5, betas: [0.8, 0.9]},
    {names: token_embedding.weight, optimizer: sgd},
    {names: [a], weight_decay: 0}])"));
  const std::vector<ParameterGroup>& groups = c.train.groups;
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0].names[1].scalar, "head.weight");
  EXPECT_EQ(groups[0].names[1].mark.str(), "c.yaml:4:32");
  EXPECT_EQ(groups[0].lr_factor, 0.5);
  EXPECT_EQ(groups[0].betas[1], 0.9);
  EXPECT_EQ(groups[0].eps, 1e-6) << "as in train";
  EXPECT_EQ(groups[0].weight_decay, 0.3);
  EXPECT_EQ(groups[1].optimizer, OptimizerType::sgd);
  EXPECT_EQ(groups[1].momentum, 0.9) << "another optimizer has its own defaults";
  EXPECT_EQ(groups[1].weight_decay, 0);
  EXPECT_EQ(groups[2].lr_factor, 1);
  EXPECT_EQ(groups[2].weight_decay, 0);

  const std::string text = to_yaml(c.to_yaml());
  EXPECT_EQ(parse_config(parse_yaml(text, "resolved")).train, c.train) << text;
  EXPECT_NE(config_hash(c), config_hash(parse(with("", "", "eps: 1e-6, weight_decay: 0.3"))));
  EXPECT_EQ(to_yaml(parse(kMinimal).to_yaml()).find("groups"), std::string::npos);

  const auto error = [](const std::string& list) { return error_of(with("", "", "groups: " + list)); };
  EXPECT_EQ(error("3"), "c.yaml:3:54: train.groups must be a list of maps");
  EXPECT_EQ(error("[3]"), "c.yaml:3:55: train.groups must be a map of 'key: value' lines, not '3'");
  EXPECT_EQ(error("[{lr_factor: 2}]"), "c.yaml:3:55: train.groups.names is missing | add 'names:'");
  EXPECT_EQ(error("[{names: []}]"), "c.yaml:3:63: train.groups.names is empty");
  EXPECT_EQ(error("[{names: a, lr: 2}]"),
            "c.yaml:3:66: unknown key 'train.groups.lr' | known keys: names, optimizer, lr_factor, betas, "
            "eps, momentum, "
            "weight_decay");
  EXPECT_EQ(
      error("[{names: a, momentum: 0.5}]"),
      "c.yaml:3:66: train.groups.momentum is not used by optimizer: adamw | remove it, or set optimizer: "
      "sgd");
}

TEST(Config, DifferencesNameKeysAndValues) {
  const YamlNode a = parse(kMinimal).to_yaml(),
                 b = parse(with("dim: 32").replace(0, 17, "model: {")).to_yaml();
  EXPECT_EQ(differences(a, a), std::vector<std::string>{});
  EXPECT_EQ(differences(a, b), (std::vector<std::string>{"model.dim: 64 / 32", "model.head_dim: 16 / 8",
                                                         "model.ffn_dim: 256 / 128"}));
  const YamlNode rope = parse(with("positions: rope", "", "", "pattern: {local: {window: 2}}\n")).to_yaml();
  EXPECT_EQ(differences(a, rope),
            (std::vector<std::string>{"pattern: {full: {}} / {local: {window: 2}}",
                                      "model.positions: learned / rope", "model.rope_theta: - / 10000"}));
}
