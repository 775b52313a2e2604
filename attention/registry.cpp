#include "attention/registry.h"

#include <algorithm>

namespace filigree {

const std::vector<PatternEntry>& pattern_registry() {
  static const std::vector<PatternEntry> entries = {
      {"full", "every key", make_full},
      {"local", "causal: i-j in {0, d, .., (w-1)d}, itself included; else |i-j| in {0, d, .., floor(w/2)d}",
       make_local},
      {"global", "i or j is a global token", make_global},
      {"strided", "(i-j) mod s = 0", make_strided},
      {"fixed", "same s-block, or (j mod s) >= s-c", make_fixed},
      {"random", "r keys per query, drawn among those causality allows", make_random},
      {"random_blocks", "the same, in whole blocks", make_random_blocks},
      {"block", "the block pair is listed", make_block},
      {"bigbird", "blocks: |qb-kb| <= window/2, or either is global, or drawn among the rest", make_bigbird},
      {"longformer", "local or global", make_longformer},
      {"learned_layout", "what the head has learned, from a dictionary of distances, sinks, strides ..",
       make_learned_layout},
      {"block_topk", "the key tiles that a learned router finds for the query, the diagonal and sinks",
       make_block_topk},
      {"learned_span", "the distances up to the span that the head has learned", make_learned_span},
      {"union", "any of the listed patterns", make_union},
      {"intersect", "all of the listed patterns", make_intersect},
      {"minus", "the first pattern without the second", make_minus},
      {"heads", "by head", make_heads},
      {"layers", "by layer; a later entry wins", make_layers},
  };
  return entries;
}

std::vector<std::string> pattern_names() {
  std::vector<std::string> names;
  for (const auto& entry : pattern_registry()) names.emplace_back(entry.name);
  return names;
}

PatternPtr make_nested(const YamlNode& node, const PatternContext& context) {
  if (node.is_scalar()) {  // a name alone: the pattern with its defaults
    YamlNode named = YamlNode::make_map();
    YamlNode body = YamlNode::make_map();
    named.mark = body.mark = node.mark;
    named.entries.emplace_back(node, body);
    return make_nested(named, context);
  }
  if (!node.is_map() || node.entries.size() != 1)
    fail_at(node.mark, "a pattern is a map with one key, its name", "for example {local: {window: 64}}");
  const auto& [key, body] = node.entries.front();
  for (const auto& entry : pattern_registry())
    if (entry.name == key.scalar) return entry.make(body, context);
  const std::string near = nearest(key.scalar, pattern_names());
  fail_at(key.mark, fmt::format("unknown pattern '{}'", key.scalar),
          near.empty() ? fmt::format("known patterns: {}", fmt::join(pattern_names(), ", "))
                       : fmt::format("did you mean '{}'?", near));
}

namespace {

bool names_layers(const YamlNode& node) {
  const auto nested = [](const YamlNode& child) { return names_layers(child); };
  return node.find("layers") || std::any_of(node.items.begin(), node.items.end(), nested) ||
         std::any_of(node.entries.begin(), node.entries.end(),
                     [](const auto& entry) { return names_layers(entry.second); });
}

}  // namespace

PatternPtr make_pattern(const YamlNode& node, int layer, int n_layers, int n_heads) {
  check(0 <= layer && layer < n_layers && n_heads >= 1, "make_pattern was given a layer or head count");
  return make_nested(node, {.layer = layer, .n_layers = n_layers, .n_heads = n_heads});
}

std::vector<PatternPtr> make_layer_patterns(const YamlNode& node, int n_layers, int n_heads) {
  std::vector<PatternPtr> patterns;
  const bool differ = names_layers(node);
  for (int layer = 0; layer < n_layers; ++layer)
    patterns.push_back(layer > 0 && !differ ? patterns.front()
                                            : make_pattern(node, layer, n_layers, n_heads));
  return patterns;
}

}  // namespace filigree
