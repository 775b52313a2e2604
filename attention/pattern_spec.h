// A pattern as its YAML says it. The YAML is read once, into a PatternSpec, which a Config holds; the
// patterns of a model's layers are made from that. attention/patterns.h has the kinds that there are.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attention/pattern.h"
#include "core/yaml.h"

namespace filigree {

struct PatternKind;
std::vector<std::string> pattern_names();  // of all kinds

struct PatternSpec {
  // The layout that `block` names: by its file, or by the sum of one in a checkpoint (tile_layout.h).
  struct NamedLayout {
    bool in_file = false;
    std::string name;
    Mark mark;
  };
  const PatternKind* kind = nullptr;  // attention/patterns.h; null: not read yet
  YamlNode written = YamlNode::make_map().add("full", YamlNode::make_map());
  Mark mark;                          // of its body
  YamlNode settings;                  // those of its own, defaults filled in
  std::optional<NamedLayout> layout;  // of `block`
  std::vector<PatternSpec> parts;     // of union, intersect, minus, heads and layers
  YamlNode share;                     // of a part of heads or layers: its `count` or `layers`
  PatternPtr made;                    // where it is the same for every layer and number of heads

  std::string_view name() const;
};

// From a map with one key, such as {local: {window: 64}}, or from a name alone: the pattern with its
// defaults. Every mistake is an Error(usage) with file:line:column; what depends on the number of layers and
// heads shows when the pattern is made.
PatternSpec read_pattern(const YamlNode& node);
std::string to_yaml(const PatternSpec& spec);
bool operator==(const PatternSpec& a, const PatternSpec& b);  // marks do not count

// `layer` picks the entry of a `layers:` list (later entries win).
PatternPtr make_pattern(const PatternSpec& spec, int layer, int n_layers, int n_heads);
// The pattern of every layer. Layers share one object where no `layers:` stands anywhere in the pattern.
std::vector<PatternPtr> make_layer_patterns(const PatternSpec& spec, int n_layers, int n_heads);

bool names_kind(const PatternSpec& spec, std::string_view kind);  // anywhere in it
bool learns(const PatternSpec& spec);                             // any head of any layer
// In the order in which the YAML names them.
std::vector<PatternSpec::NamedLayout> named_layouts(const PatternSpec& spec);

// --- YAML with a free parameter: the word `fit` in place of a number, which a sweep finds ---

// The key of the first one, or of the list that it stands in; nullopt if there is none.
std::optional<std::string> free_parameter(const YamlNode& pattern);
YamlNode with_parameter(const YamlNode& pattern, std::int64_t value);  // the number in place of `fit`
// `fit` as the parameter that the pattern's kind has for it, if that is not given; else as it is.
YamlNode with_default_parameter(const YamlNode& pattern);

}  // namespace filigree
