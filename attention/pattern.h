// Patterns: what each head may attend to. `allows(head, i, j)` is the meaning; `row` is the same set as
// sorted key intervals, from which the TileLayout is built in O(tiles). Tests hold the two against each
// other. With `causal`, every pattern is intersected with j <= i by the builder, not by the patterns.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attention/tile_layout.h"
#include "core/yaml.h"

namespace filigree {

// What a pattern may depend on beside its own parameters.
struct Geometry {
  std::int64_t n = 0;  // queries and keys
  bool causal = true;
  int tile = 64;
};

// Half-open key range.
struct Interval {
  std::int64_t begin, end;
};
using Intervals = std::vector<Interval>;  // ascending, disjoint, non-empty

class LearnedPattern;

class Pattern {
 public:
  virtual ~Pattern() = default;
  // Whether query i of `head` may see key j, before causality.
  virtual bool allows(const Geometry& g, int head, std::int64_t i, std::int64_t j) const = 0;
  // The keys of query i, before causality (keys beyond i may be left out when g.causal). Replaces `out`.
  virtual void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const = 0;
  // Heads with the same class share one TilePattern. Most patterns treat all heads alike.
  virtual int head_class(int /*head*/) const { return 0; }
  // Where a head learns its pattern (attention/connectivity.h): what it learns by.
  virtual const LearnedPattern* learned(int /*head*/) const { return nullptr; }
  // Throws Error(usage) where the pattern does not fit this length or head count.
  virtual void validate(const Geometry&, int /*n_heads*/) const {}
};
using PatternPtr = std::shared_ptr<const Pattern>;

// Builds a pattern from its YAML, e.g. {local: {window: 64}}, {union: [...]} or, with its defaults, full.
// `layer` picks the entry of a `layers:` list (later entries win). Every mistake is an Error(usage) with
// file:line:column.
PatternPtr make_pattern(const YamlNode& node, int layer, int n_layers, int n_heads);

// The pattern of every layer. Layers share one object where no `layers:` stands anywhere in the YAML.
std::vector<PatternPtr> make_layer_patterns(const YamlNode& node, int n_layers, int n_heads);

// What a layout allows, for its own length and heads. `origin` names it in messages.
PatternPtr pattern_of_layout(LayoutPtr layout, const std::string& origin);

// Throws Error(usage), at `mark`, where a head's pattern allows no pair at all, as {minus: [full, full]}
// does.
void require_pairs(const Pattern& pattern, const Geometry& geometry, int n_heads, const Mark& mark);

// Names of all patterns, for messages and `explain`.
std::vector<std::string> pattern_names();

// O(tiles); heads of equal head_class share storage.
TileLayout build_layout(const Pattern& pattern, const Geometry& geometry, int n_heads);

// The layout of every layer; layers that allow the same pairs share one object.
std::vector<LayoutPtr> build_layer_layouts(const std::vector<PatternPtr>& layers, const Geometry& geometry,
                                           int n_heads);

}  // namespace filigree
