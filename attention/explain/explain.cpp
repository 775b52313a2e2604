#include "attention/explain/explain.h"

#include <algorithm>

#include "attention/pattern_spec.h"

namespace filigree {
namespace {

constexpr std::int64_t kSeedLength = 4096;
constexpr double kElementBytes = 4;  // f32

SeedRow seed_row(std::string name, std::string formula, std::int64_t formula_pairs, const std::string& yaml) {
  const auto pattern = make_pattern(read_pattern(parse_yaml(yaml, "seed table")), 0, 1, 1);
  const auto statistics = [&](bool causal, int tile) {
    return build_layout(*pattern, {kSeedLength, causal, tile}, 1).statistics();
  };
  SeedRow row{std::move(name), std::move(formula), formula_pairs};
  row.bidirectional_pairs = statistics(false, 64).exact_pairs;
  row.causal_pairs = statistics(true, 64).exact_pairs;
  row.tiles_64 = statistics(true, 64).computed_tiles;
  row.tiles_128 = statistics(true, 128).computed_tiles;
  return row;
}

}  // namespace

AttentionCost attention_cost(const TileLayout& layout, std::int64_t head_dim, int n_kv_heads) {
  const auto s = layout.statistics();
  const auto d = static_cast<double>(head_dim), t = static_cast<double>(layout.tile());
  const auto pairs = static_cast<double>(s.exact_pairs), tiles = static_cast<double>(s.computed_tiles);
  const double queries = static_cast<double>(layout.n_queries()) * layout.n_heads();
  const double keys = static_cast<double>(layout.n_keys()) * n_kv_heads;

  AttentionCost cost;
  cost.useful_forward = 4 * d * pairs;
  cost.computed_forward = 4 * d * t * t * tiles;
  cost.useful_backward = 10 * d * pairs;
  cost.computed_backward = 10 * d * t * t * tiles;
  const double query_side_forward = 2 * queries * d + queries,
               query_side_backward = 4 * queries * d + queries;
  cost.least_bytes_forward = kElementBytes * (query_side_forward + 2 * keys * d);
  cost.least_bytes_backward = kElementBytes * (query_side_backward + 4 * keys * d);
  cost.tile_bytes_forward = kElementBytes * (query_side_forward + 2 * tiles * t * d);
  cost.tile_bytes_backward = kElementBytes * (query_side_backward + 4 * keys * d + 4 * tiles * t * d);
  return cost;
}

Explanation explain(const ExplainRequest& request) {
  require(!request.layers.empty(), "[explain] no layers");
  require(request.head_dim >= 1, "[explain] head_dim is {}, expected at least 1", request.head_dim);
  Explanation out;
  out.request = request;
  if (out.request.n_kv_heads == 0) out.request.n_kv_heads = request.n_heads;

  const auto layouts = build_layer_layouts(request.layers, request.geometry, request.n_heads);
  for (std::size_t l = 0; l < layouts.size(); ++l) {
    auto group = std::find_if(out.groups.begin(), out.groups.end(),
                              [&](const LayerGroup& g) { return g.layout == layouts[l]; });
    if (group == out.groups.end()) {
      const auto cost = attention_cost(*layouts[l], request.head_dim, out.request.n_kv_heads);
      out.groups.push_back({{}, layouts[l], layouts[l]->statistics(), cost});
      group = out.groups.end() - 1;
    }
    group->layers.push_back(static_cast<int>(l));
  }
  out.reach = find_receptive_field(layouts);
  return out;
}

std::vector<SeedRow> seed_table() {
  const std::int64_t n = kSeedLength;
  return {
      seed_row("full", "n n", n * n, "{full: {}}"),
      seed_row("local, window 64", "n w", n * 64, "{local: {window: 64}}"),
      seed_row("bigbird, block 64, 3+2+3", "n b (w+g+r)", n * 64 * (3 + 2 + 3),
               "{bigbird: {block: 64, window: 3, global: 2, random: 3}}"),
  };
}

}  // namespace filigree
