// Checkpoint files. One HDF5 file holds everything that a run needs to go on or that a model needs to be
// used:
//
//   weights/<name>, optimizer/<name>   tensors
//   patterns/<name>                    tensors: phases and hardened layouts of learned patterns
//   state                              JSON: step, data position, counters, best loss ... (the trainer's)
//   config                             the resolved config, YAML
//   layouts/<sum>                      u8: layout files, byte for byte, that the config names by their sum
//   tokenizer                          tokenizer.json of the data's tokenizer; absent where it is unknown
//   special_tokens                     JSON: of an imported model, see train/record/special_tokens.h
//   environment                        JSON: versions of filigree and its libraries, thread count
//   manifest                           JSON: path, dtype, dims and xxhash64 of every dataset above, in order
//   attributes format, manifest_sum    "filigree checkpoint 1", xxhash64 of the manifest
//
// Nothing is used before its sum was checked against the manifest, and the manifest's against its own.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "data/tokenizer.h"
#include "layers/transformer.h"
#include "train/config/config.h"

namespace filigree {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

struct CheckpointContents {
  NamedTensors weights;
  NamedTensors optimizer;
  std::string state_json;
  std::string config_yaml;
  std::string environment_json;          // set by write_checkpoint
  std::string tokenizer_json = "";       // empty: unknown
  NamedTensors patterns = {};            // what learned patterns hold beside their parameters
  NamedTensors layouts = {};             // of `pattern: {block: {layout: SUM}}`, by their sum
  std::string special_tokens_json = "";  // empty: the tokenizer's separator begins and ends a text
};

// Writes beside `path`, reads it back, checks every sum, and only then gives it its name: whatever was there
// before stays until the new one is proven. Error(disk) if there is no room (looked up beforehand) or a write
// fails. Tensors on a device are copied to the CPU. Names are unique within weights and within optimizer, and
// hold no '/'.
void write_checkpoint(const std::filesystem::path& path, const CheckpointContents& contents);

// The bytes that a checkpoint takes on the disk, less HDF5's own structures, which stay below
// kCheckpointOverhead.
std::int64_t checkpoint_bytes(const CheckpointContents& contents);
inline constexpr std::int64_t kCheckpointOverhead = 1 << 20;

// Error(data), naming the file, if it is missing, empty, cut, damaged or no checkpoint. The layouts that it
// holds can be named by patterns from then on (attention/tile_layout.h).
CheckpointContents read_checkpoint(const std::filesystem::path& path);

// The tokenizer that a checkpoint holds, whose name its state gives; null where only the data's ids are
// known.
std::shared_ptr<const Tokenizer> read_tokenizer(const CheckpointContents& contents,
                                                const std::string& origin);

// What a checkpoint's state tells of the data that its model was trained on.
struct TrainedOn {
  std::string data, validation;      // their fingerprints; empty: unknown, or there was none
  std::vector<std::string> classes;  // names by label; empty: no classifier, or made before names were kept
};

// Error(data) if the state is not one of ours.
TrainedOn trained_on(const std::string& state_json, const std::string& origin);

// Its classes, for data of other folders. Error(data) where they are unknown.
const std::vector<std::string>& class_names(const TrainedOn& trained_on, const std::string& origin);

// The state alone, verified.
std::string read_state(const std::filesystem::path& path);

struct CheckpointEntry {
  std::string path;  // "weights/<name>", "state", ...
  DType dtype;
  std::vector<std::int64_t> dims;
  std::string sum;  // hex xxhash64
};

struct CheckpointInfo {
  std::int64_t file_bytes = 0;
  std::vector<CheckpointEntry> entries;
  std::string state_json, config_yaml, environment_json;
};

// Verifies the whole file like read_checkpoint, holding one tensor at a time.
CheckpointInfo inspect_checkpoint(const std::filesystem::path& path);

// Copies `source` into `targets`, which must have the same names, shapes and dtypes; nothing is copied
// unless all fit. The Error(data) names the tensors that are missing, left over or different, and `origin`.
void load_tensors_into(const NamedTensors& targets, const NamedTensors& source, const std::string& origin);

// What a checkpoint holds of the model's learned patterns, and its way back. Error(data) if it is another
// model's.
NamedTensors pattern_state(const Transformer& model);
void load_patterns(Transformer& model, const Config& config, const NamedTensors& patterns,
                   const std::string& origin);

// Error(usage) listing the first differing keys with both values unless `config` describes the model of the
// checkpoint's config: model (but dropout and activation_checkpointing), pattern, causal and data.tokenizer.
// Both have model.vocab_size filled in.
void require_same_model(const Config& config, const std::string& checkpoint_yaml, const std::string& origin);

// The same for what decides which weights there are and what they mean: `model` but dropout,
// activation_checkpointing and, unless positions are learned, max_seq_len. Another pattern may use them.
void require_same_weights(const Config& config, const std::string& checkpoint_yaml,
                          const std::string& origin);

// The same for everything that config_hash covers: what a resumed run must not change.
void require_same_run(const Config& config, const std::string& checkpoint_yaml, const std::string& origin);

}  // namespace filigree
