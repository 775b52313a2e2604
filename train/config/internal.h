// What the config_*.cpp files share.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "train/config/config.h"

namespace filigree {

// The words of an enumeration, in the order of its enumerators.
using Words = std::vector<std::string>;
template <class Enum>
const Words& words() = delete;
template <>
inline const Words& words<ModelType>() {
  static const Words list = {"decoder", "encoder_mlm", "encoder_classifier"};
  return list;
}
template <>
inline const Words& words<NormKind>() {
  static const Words list = {"layer_norm", "rms_norm"};
  return list;
}
template <>
inline const Words& words<Activation>() {
  static const Words list = {"gelu", "gelu_tanh", "silu", "swiglu"};
  return list;
}
template <>
inline const Words& words<Positions>() {
  static const Words list = {"learned", "rope", "alibi", "none"};
  return list;
}
template <>
inline const Words& words<OptimizerType>() {
  static const Words list = {"adamw", "sgd"};
  return list;
}
template <>
inline const Words& words<ScheduleType>() {
  static const Words list = {"cosine", "linear", "wsd", "constant"};
  return list;
}
template <>
inline const Words& words<DataFormat>() {
  static const Words list = {"auto", "text", "hdf5", "bin"};
  return list;
}
template <>
inline const Words& words<Precision>() {
  static const Words list = {"auto", "fp32", "bf16"};
  return list;
}
template <>
inline const Words& words<DeviceChoice>() {
  static const Words list = {"cpu", "auto", "cuda"};
  return list;
}

int read_tile(MapReader& root);  // 16, 32, 64 or 128; default 64

// What does not fit train.steps, as (key, message), or an empty key; warmup_steps is filled in.
std::pair<std::string, std::string> schedule_conflict(const TrainConfig& train);

// A config's tree laid onto everything that it extends; `path` is the file that it stands in.
YamlNode load_config_tree(YamlNode tree, const std::filesystem::path& path);
// Sets a dotted key, as an override does; `mark` is where it is written.
void set_config_key(YamlNode& tree, const std::string& key, YamlNode value, const Mark& mark);
// The words of a value without its punctuation: {local: {window: 64}} is "local window 64".
std::string plain_words(const YamlNode& value);
void apply_override(YamlNode& tree, const std::string& text);  // "train.steps=200"
// All overrides of a command line: the last one counts, but files are named once.
void apply_overrides(YamlNode& tree, const std::vector<std::string>& texts);

}  // namespace filigree
