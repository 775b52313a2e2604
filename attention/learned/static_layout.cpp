#include "attention/learned/static_layout.h"

#include <algorithm>
#include <numeric>

#include "attention/registry.h"

namespace filigree {

LayoutPtr layout_of_tiles(const Geometry& g, int n_heads, std::span<const HeadTile> tiles) {
  const PatternPtr full = make_full(YamlNode::make_map(), {});
  const TileLayout all = build_layout(*full, g, 1);
  const TilePattern& from = all.of_head(0);
  const std::int64_t side = all.query_tiles();
  TileSet on(n_heads, side);
  for (const HeadTile& t : tiles) on.add(t);
  std::vector<TilePattern> patterns;
  std::vector<std::int32_t> head_pattern;
  for (int head = 0; head < n_heads; ++head) {
    TilePattern made;
    made.row_offsets.push_back(0);
    for (std::int64_t q = 0; q < side; ++q) {
      for (std::int64_t t = from.row_offsets[q]; t < from.row_offsets[q + 1]; ++t) {
        if (!on.has(head, q, from.columns[t])) continue;
        made.columns.push_back(from.columns[t]);
        made.mask_id.push_back(from.mask_id[t]);
      }
      made.row_offsets.push_back(static_cast<std::int32_t>(made.columns.size()));
    }
    patterns.push_back(std::move(made));
    head_pattern.push_back(head);
  }
  return std::make_shared<const TileLayout>(g.n, g.n, g.tile, g.causal, std::move(patterns),
                                            std::move(head_pattern), all.masks());
}

LayoutPtr heaviest_tiles(const Geometry& g, const Tensor& mass, std::int64_t budget) {
  const auto n_heads = static_cast<std::int32_t>(mass.dim(0)), side = static_cast<std::int32_t>(mass.dim(1));
  std::vector<HeadTile> chosen, rest;
  for (std::int32_t head = 0; head < n_heads; ++head)
    for (std::int32_t q = 0; q < side; ++q)
      for (std::int32_t k = 0; k < (g.causal ? q + 1 : side); ++k)
        (k == q ? chosen : rest).push_back({head, q, k});
  const std::int64_t wanted = budget - std::ssize(chosen);
  require(wanted >= 0, "a budget of {} tiles cannot hold the diagonal, {} tiles", budget, chosen.size());
  const auto mass_of = [&](const HeadTile& t) {
    return mass.data<double>()[(std::int64_t{t.head} * side + t.q) * side + t.k];
  };
  std::ranges::stable_sort(rest,
                           [&](const HeadTile& a, const HeadTile& b) { return mass_of(a) > mass_of(b); });
  const auto kept = std::min(wanted, std::ssize(rest));
  chosen.insert(chosen.end(), rest.begin(), rest.begin() + kept);
  return layout_of_tiles(g, n_heads, chosen);
}

LayoutPtr with_shuffled_heads(const TileLayout& layout, std::uint64_t seed) {
  std::vector<std::int32_t> order(layout.n_heads());
  std::iota(order.begin(), order.end(), 0);
  RandomStream random(RandomKey{seed, random_site("shuffle.heads"), 0});
  for (std::size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[random.below(static_cast<std::uint32_t>(i))]);
  std::vector<std::int32_t> head_pattern(order.size());
  for (std::size_t i = 0; i < order.size(); ++i)  // a cycle: no head keeps its own
    head_pattern[order[i]] = layout.head_pattern()[order[(i + 1) % order.size()]];
  return std::make_shared<const TileLayout>(layout.n_queries(), layout.n_keys(), layout.tile(),
                                            layout.causal(), layout.patterns(), std::move(head_pattern),
                                            layout.masks());
}

}  // namespace filigree
