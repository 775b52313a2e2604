#include "attention/learned/tile_choice.h"

#include <algorithm>
#include <numeric>

#include "attention/pattern_spec.h"
#include "core/module.h"
#include "core/parallel.h"

namespace filigree {
namespace {

// The tiles that one head computes.
struct HeadTiles {
  TilePattern pattern;
  std::vector<std::int32_t> entries;
};

// In the order of `from`, which is a layout's: partial tiles first.
HeadTiles choose_for_head(const TilePattern& from, int head, const TileChooser& chooser) {
  HeadTiles made;
  made.pattern.row_offsets.push_back(0);
  for (std::size_t q = 0; q + 1 < from.row_offsets.size(); ++q) {
    for (std::int64_t t = from.row_offsets[q]; t < from.row_offsets[q + 1]; ++t) {
      const auto entry = chooser(head, static_cast<std::int64_t>(q), from.columns[t]);
      if (!entry) continue;
      made.pattern.columns.push_back(from.columns[t]);
      made.pattern.mask_id.push_back(from.mask_id[t]);
      made.entries.push_back(*entry);
    }
    made.pattern.row_offsets.push_back(static_cast<std::int32_t>(made.pattern.columns.size()));
  }
  return made;
}

}  // namespace

LayoutPtr full_layout(const Geometry& geometry, int n_heads) {
  const PatternPtr full = make_pattern(read_pattern(YamlNode::make("full")), 0, 1, 1);
  return std::make_shared<const TileLayout>(build_layout(*full, geometry, n_heads));
}

std::vector<HeadTile> tiles_of(const TileLayout& layout) {
  std::vector<HeadTile> tiles;
  for (std::int32_t head = 0; head < layout.n_heads(); ++head) {
    const TilePattern& p = layout.of_head(head);
    for (std::int32_t q = 0; q < layout.query_tiles(); ++q)
      for (std::int32_t t = p.row_offsets[q]; t < p.row_offsets[q + 1]; ++t)
        tiles.push_back({head, q, p.columns[t]});
  }
  return tiles;
}

ChosenTiles choose(const TileLayout& all, const TileChooser& chooser) {
  std::vector<HeadTiles> heads(all.n_heads());
  parallel_tasks(all.n_heads(), [&](std::int64_t head) {
    heads[head] = choose_for_head(all.of_head(static_cast<int>(head)), static_cast<int>(head), chooser);
  });
  ChosenTiles chosen;
  std::vector<TilePattern> patterns;
  std::vector<std::int32_t> head_pattern;
  for (HeadTiles& head : heads) {
    chosen.entries.insert(chosen.entries.end(), head.entries.begin(), head.entries.end());
    const auto equal = std::ranges::find(patterns, head.pattern);
    head_pattern.push_back(static_cast<std::int32_t>(equal - patterns.begin()));
    if (equal == patterns.end()) patterns.push_back(std::move(head.pattern));
  }
  chosen.layout =
      std::make_shared<const TileLayout>(all.n_queries(), all.n_keys(), all.tile(), all.causal(),
                                         std::move(patterns), std::move(head_pattern), all.masks());
  return chosen;
}

LayoutPtr with_tiles(const TileLayout& all, std::span<const HeadTile> tiles) {
  const std::int64_t side = all.query_tiles();
  const auto slot = [side](std::int64_t head, std::int64_t q, std::int64_t k) {
    return (head * side + q) * side + k;
  };
  std::vector<bool> on(all.n_heads() * side * side);
  for (const HeadTile& t : tiles)
    if (t.q < side && t.k < side) on[slot(t.head, t.q, t.k)] = true;
  return choose(all,
                [&](int head, std::int64_t q, std::int64_t k) {
                  return on[slot(head, q, k)] ? std::optional<std::int32_t>(0) : std::nullopt;
                })
      .layout;
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
  return with_tiles(*full_layout(g, n_heads), chosen);
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
