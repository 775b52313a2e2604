// How a pattern's YAML becomes a Pattern: one line in registry.cpp and one function, `make_<name>`, each.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "attention/pattern.h"

namespace filigree {

// What a pattern's YAML may depend on beside its own text.
struct PatternContext {
  int layer = 0;
  int n_layers = 1;
  int n_heads = 1;
  bool inside_heads = false;
  bool inside_layers = false;
};

struct PatternEntry {
  std::string_view name;
  std::string_view meaning;  // the rule, as `explain` prints it
  PatternPtr (*make)(const YamlNode& body, const PatternContext& context);
};

const std::vector<PatternEntry>& pattern_registry();

// A pattern node inside another pattern: a map with one key, the pattern's name.
PatternPtr make_nested(const YamlNode& node, const PatternContext& context);

PatternPtr make_full(const YamlNode&, const PatternContext&);
PatternPtr make_local(const YamlNode&, const PatternContext&);
PatternPtr make_global(const YamlNode&, const PatternContext&);
PatternPtr make_strided(const YamlNode&, const PatternContext&);
PatternPtr make_fixed(const YamlNode&, const PatternContext&);
PatternPtr make_random(const YamlNode&, const PatternContext&);
PatternPtr make_random_blocks(const YamlNode&, const PatternContext&);
PatternPtr make_block(const YamlNode&, const PatternContext&);
PatternPtr make_bigbird(const YamlNode&, const PatternContext&);
PatternPtr make_longformer(const YamlNode&, const PatternContext&);
PatternPtr make_union(const YamlNode&, const PatternContext&);
PatternPtr make_intersect(const YamlNode&, const PatternContext&);
PatternPtr make_minus(const YamlNode&, const PatternContext&);
PatternPtr make_learned_layout(const YamlNode&, const PatternContext&);
PatternPtr make_block_topk(const YamlNode&, const PatternContext&);
PatternPtr make_learned_span(const YamlNode&, const PatternContext&);
PatternPtr make_heads(const YamlNode&, const PatternContext&);
PatternPtr make_layers(const YamlNode&, const PatternContext&);

}  // namespace filigree
