// Configs as trees: files that extend each other, values that are set by a dotted key, and what differs.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/yaml.h"

namespace filigree {

// A config's tree laid onto everything that it extends; `path` is the file that it stands in.
YamlNode load_config_tree(YamlNode tree, const std::filesystem::path& path);
// Sets a dotted key, as an override does; `mark` is where it is written.
void set_config_key(YamlNode& tree, const std::string& key, YamlNode value, const Mark& mark);
// The words of a value without its punctuation: {local: {window: 64}} is "local window 64".
std::string plain_words(const YamlNode& value);
void apply_override(YamlNode& tree, const std::string& text);  // "train.steps=200"
// All overrides of a command line: the last one counts, but files are named once.
void apply_overrides(YamlNode& tree, const std::vector<std::string>& texts);

// "model.dim: 64 / 128" for every key of the two trees that differs, in the order of `a`, then of `b`. Absent
// values print as "-".
std::vector<std::string> differences(const YamlNode& a, const YamlNode& b);

}  // namespace filigree
