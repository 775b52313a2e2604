// The whole training configuration as typed structs, and how it is read from YAML. Nothing in a Config refers
// to the YAML it came from; every default is filled in. Relative paths stay relative to the working folder.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "attention/pattern_spec.h"
#include "core/fields.h"
#include "data/sources.h"
#include "data/tasks/registry.h"
#include "layers/model_config.h"

namespace filigree {

enum class OptimizerType { adamw, sgd };
template <>
inline constexpr Word kWords<OptimizerType>[] = {{"adamw", "Adam with decoupled weight decay"},
                                                 {"sgd", "gradient descent with momentum"}};

enum class ScheduleType { cosine, linear, wsd, constant };
template <>
inline constexpr Word kWords<ScheduleType>[] = {
    {"cosine", "half a cosine from lr down to min_lr"},
    {"linear", "a straight line from lr down to min_lr"},
    {"wsd", "lr, and in the last decay_steps a line down to min_lr"},
    {"constant", "lr"}};

enum class DeviceChoice { cpu, automatic, cuda };
template <>
inline constexpr Word kWords<DeviceChoice>[] = {
    {"cpu", "the processor"}, {"auto", "cuda where there is a GPU, else cpu"}, {"cuda", "an NVIDIA GPU"}};

enum class Precision { automatic, fp32, bf16 };
template <>
inline constexpr Word kWords<Precision>[] = {{"auto", "bf16 on cuda, fp32 on the cpu"},
                                             {"fp32", "32-bit floats"},
                                             {"bf16", "bfloat16 products, on cuda only"}};

struct DataConfig {
  std::optional<GeneratedData> task;  // generated samples; then only seq_len and, if not fresh, shuffle count
  std::vector<std::string> train;  // files, folders, globs; may start with ~. Classifier: a folder per class
  std::vector<std::string> val;    // empty: val_fraction of the files of `train`
  double val_fraction = 0.05;      // 0: no validation
  InputFormat format = InputFormat::automatic;
  // auto: byte for text; files of tokens hold theirs. byte, or bpe:FILE for a tokenizer.json: for text, or
  // the one that made the token files. Resolved, of token files: bpe: and its checksum, or ids where .bin
  // files hold no more.
  std::string tokenizer = "auto";
  std::int64_t seq_len = 0;
  // Attention stays inside a document, whose first token is predicted only if it is the separator; false: all
  // text is one stream, which runs on across documents. Not encoder_classifier.
  bool documents = true;
  bool shuffle = true;
  double mask_probability = 0.15;  // encoder_mlm
  bool has_validation() const { return task ? task->val_samples > 0 : !val.empty() || val_fraction > 0; }
  bool operator==(const DataConfig&) const = default;
};

// Whether a value was derived and not written. It says nothing about the value and does not count in
// comparisons.
struct Derived {
  bool value = false;
  bool operator==(const Derived&) const { return true; }
};

// An optimizer and its settings, but for the learning rate.
struct OptimizerConfig {
  OptimizerType optimizer = OptimizerType::adamw;
  std::array<double, 2> betas = {0.9, 0.95};  // adamw
  double eps = 1e-8;                          // adamw
  double momentum = 0;                        // sgd; default 0.9
  double weight_decay = 0;                    // on matrices; default 0.1 for adamw, 0 for sgd
  bool operator==(const OptimizerConfig&) const = default;
};

// Parameters with an optimizer of their own.
struct ParameterGroup : OptimizerConfig {
  std::vector<YamlNode> names;  // patterns as a shell has them, "blocks.*.weight"; marked where they stand
  double lr_factor = 1;         // times the learning rate of the step
  bool operator==(const ParameterGroup&) const = default;
};

struct TrainConfig : OptimizerConfig {
  std::int64_t steps = 0;             // 0 while only `epochs` is known, see resolve_steps
  double epochs = 0;                  // 0 if `steps` was given
  std::int64_t batch_size = 0;        // sequences per step
  std::int64_t micro_batch_size = 0;  // sequences per forward pass; divides batch_size
  double lr = 0;
  double min_lr = 0;                   // not `constant`; default lr / 10
  double clip = 1.0;                   // global gradient norm; 0: off
  std::vector<ParameterGroup> groups;  // a parameter is of the first that names it, if there is one
  ScheduleType schedule = ScheduleType::cosine;
  std::optional<std::int64_t> warmup_steps;  // default 5 % of steps, at most 2000; empty only without `steps`
  std::optional<std::int64_t> decay_steps;   // wsd; default 20 % of steps; empty only without `steps`
  Derived warmup_is_default, decay_is_default;  // from steps; a run that is lengthened keeps those it had
  std::int64_t eval_interval = 250;             // steps; 0: only at the end. Both need validation data
  std::int64_t eval_batches = 20;               // micro batches; 0: all
  std::vector<std::int64_t> eval_lengths;  // of a generated task: the last evaluation is also made at these
  std::int64_t log_interval = 10;          // steps
  std::string init_from;                   // checkpoint or run to take the first weights from; empty: none
  std::string out;                         // run folder; default runs/<name of the config file>
  std::int64_t accumulation() const { return batch_size / micro_batch_size; }
  bool operator==(const TrainConfig&) const = default;
};

struct CheckpointConfig {
  std::int64_t interval = 500;  // steps; 0: only at the end
  std::int64_t keep = 2;        // newest checkpoints kept
  bool best = true;             // also keep the one with the lowest validation loss
  bool operator==(const CheckpointConfig&) const = default;
};

struct LogConfig {
  bool tensorboard = false;  // also write TensorBoard event files, to <train.out>/tensorboard
  bool operator==(const LogConfig&) const = default;
};

// What a config says of attention. A file may hold only this: the pattern, and causal and tile if they differ
// from the defaults.
struct PatternFile {
  PatternSpec pattern;  // a `layers:` or `heads:` list says more than one pattern
  bool causal = true;
  int tile = 64;
  bool operator==(const PatternFile&) const = default;
};

struct Config : PatternFile {
  DeviceChoice device = DeviceChoice::cpu;
  Precision precision = Precision::automatic;
  bool cuda_graph = true;  // launch a whole step at once; for device: cuda
  int threads = 0;         // 0: all cores
  std::int64_t seed = 1;
  ModelConfig model;  // vocab_size and n_classes are 0 where the data decides
  DataConfig data;
  TrainConfig train;
  CheckpointConfig checkpoint;
  LogConfig log;

  // Everything that this config uses, defaults included: parse_config(to_yaml()) == *this.
  YamlNode to_yaml() const;
  // The same with one value for all that does not change what is computed (Notes::counts_as): where a run
  // lies, how much it prints and saves, how many threads it has.
  YamlNode counted() const;
  bool operator==(const Config& other) const = default;
};

// Each setting: its key, default, range, meaning and where it is used (core/fields.h).
void fields(Fields& f, PatternFile& pattern);
void fields(Fields& f, Config& config);

// Reads a config file, its `extends:` chain and then the overrides ("train.steps=200",
// "pattern={local: {window: 64}}"; the value is YAML). Maps merge key by key; lists, `pattern` and
// `data.task` are replaced whole; null removes what was inherited. Every mistake is an Error(usage) at
// file:line:column of the file that the key came from, or naming the override.
Config load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides = {});

// Reads a tree without `extends`. `name` is used for the default run folder, runs/<name>.
Config parse_config(const YamlNode& root, const std::string& name = "run");

// Turns `epochs` into `steps` once the data's size is known and fills the defaults that depend on it. Without
// `epochs` the config is returned as it is. Error(usage) if warmup_steps or decay_steps do not fit.
Config resolve_steps(Config config, std::int64_t steps_per_epoch);

// The config for sequences of `seq_len` tokens: its task made for that length, and micro batches of about as
// many tokens (batch_size stays). Error(usage) if the task or the pattern cannot be had at that length, or if
// learned positions end before it.
Config at_length(const Config& config, std::int64_t seq_len);

// What does not fit train.steps, which is known; warmup_steps is filled in.
std::optional<Conflict> schedule_conflict(const TrainConfig& train);

// Hex xxhash64 of what counts. A tokenizer counts as one: its content is compared where data is opened.
std::string config_hash(const Config& config);

// Builds the pattern of every layer and checks that it fits the sequence length and the heads. parse_config
// has done this already.
void validate_pattern(const Config& config);

// nullopt if the file is a whole config (it has model, data, train or extends).
std::optional<PatternFile> load_pattern_file(const std::filesystem::path& path);

}  // namespace filigree
