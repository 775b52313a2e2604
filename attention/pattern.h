// A pattern says which keys each query of a head may attend to, as sorted intervals; the TileLayout is built
// from them in O(tiles). With `causal`, every pattern is intersected with j <= i by the builder, not by the
// patterns. attention/patterns.h makes patterns from YAML.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "attention/intervals.h"
#include "attention/tile_layout.h"
#include "core/yaml.h"

namespace filigree {

// What a pattern may depend on beside its own parameters.
struct Geometry {
  std::int64_t n = 0;  // queries and keys
  bool causal = true;
  int tile = 64;
};

class LearnedPattern;

class Pattern {
 public:
  virtual ~Pattern() = default;
  // The keys of query i, before causality (keys beyond i may be left out when g.causal). Replaces `out`.
  virtual void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const = 0;
  // Heads with the same class share one TilePattern. Most patterns treat all heads alike.
  virtual int head_class(int /*head*/) const { return 0; }
  // How a head learns its pattern, where it does (attention/connectivity.h).
  virtual const LearnedPattern* learned(int /*head*/) const { return nullptr; }
  // Throws Error(usage) where the pattern does not fit this length or head count.
  virtual void validate(const Geometry&, int /*n_heads*/) const {}
};
using PatternPtr = std::shared_ptr<const Pattern>;

// Throws Error(usage), at `mark`, where a head's pattern allows no pair at all, as {minus: [full, full]}
// does.
void require_pairs(const Pattern& pattern, const Geometry& geometry, int n_heads, const Mark& mark);

// The pairs that a layout allows, for its own length and heads. `origin` names it in messages.
PatternPtr pattern_of_layout(LayoutPtr layout, const std::string& origin);

// O(tiles); heads of equal head_class share storage.
TileLayout build_layout(const Pattern& pattern, const Geometry& geometry, int n_heads);

// The layout of every layer; layers that allow the same pairs share one object.
std::vector<LayoutPtr> build_layer_layouts(const std::vector<PatternPtr>& layers, const Geometry& geometry,
                                           int n_heads);

}  // namespace filigree
