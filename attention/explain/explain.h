// The cost of a pattern and what it sees: pictures, exact pairs, computed tiles, FLOPs, bytes, and how far
// information travels through the layers. `filigree explain` prints it; everything is found from layouts.
#pragma once

#include <string>
#include <vector>

#include "attention/explain/receptive_field.h"
#include "attention/pattern.h"

namespace filigree {

struct ExplainRequest {
  std::vector<PatternPtr> layers;  // one pattern per layer, from the input up
  Geometry geometry;
  int n_heads = 1;
  int n_kv_heads = 0;  // 0: n_heads
  std::int64_t head_dim = 64;
};

// The cost of one layer for one sequence. FLOPs: a multiply-add is 2; with D = head_dim, forward 4 D and
// backward 10 D per pair (S is recomputed). Bytes are f32 traffic between the tensors and a core's cache.
struct AttentionCost {
  double useful_forward = 0, computed_forward = 0;  // allowed pairs; pairs of computed tiles
  double useful_backward = 0, computed_backward = 0;
  // Each tensor once: q, k, v in and o, lse out; backward q, k, v, o, do, lse in and dq, dk, dv out.
  double least_bytes_forward = 0, least_bytes_backward = 0;
  // Every computed tile fetches its k and v (backward also, for dk and dv, its q and do) anew.
  double tile_bytes_forward = 0, tile_bytes_backward = 0;
};
AttentionCost attention_cost(const TileLayout& layout, std::int64_t head_dim, int n_kv_heads);

// Layers whose layouts are equal.
struct LayerGroup {
  std::vector<int> layers;
  LayoutPtr layout;
  LayoutStatistics statistics;
  AttentionCost cost;  // of one of the layers
};

struct Explanation {
  ExplainRequest request;
  std::vector<LayerGroup> groups;
  ReceptiveField reach;
};
Explanation explain(const ExplainRequest& request);

// The project's reference costs at n = 4096: full, local (window 64) and BigBird with its own parameters.
struct SeedRow {
  std::string name;
  std::string formula;
  std::int64_t formula_pairs = 0;
  std::int64_t bidirectional_pairs = 0, causal_pairs = 0;  // exact
  std::int64_t tiles_64 = 0, tiles_128 = 0;                // computed, causal, at tile edge 64 and 128
};
std::vector<SeedRow> seed_table();

std::string explanation_text(const Explanation& explanation);  // for people, with the picture
std::string pattern_rules_text();                              // what each pattern allows
std::string savings_text();                                    // seed_table() for people
std::string explanation_json(const Explanation& explanation);  // the same figures for machines
// The pictures of all distinct heads and layers: axes in tokens, the tile grid, and what is computed against
// what is needed. Error(disk) if it cannot be written.
void write_explanation_png(const Explanation& explanation, const std::string& path);
void write_explanation_svg(const Explanation& explanation, const std::string& path);

}  // namespace filigree
