// Static layouts from what was learned or measured: a choice of tiles, the tiles of most attention, and the
// control that gives each head another head's tiles.
#pragma once

#include <cstdint>
#include <span>

#include "attention/learned/mechanism.h"

namespace filigree {

// The pairs that full attention has in these tiles; heads from 0 to n_heads - 1.
LayoutPtr layout_of_tiles(const Geometry& geometry, int n_heads, std::span<const HeadTile> tiles);

// One-shot calibration: the diagonal, and then the tiles of the greatest mass until `budget` tiles of all
// heads are chosen. mass f64 [H, query tiles, key tiles]: attention weights summed over pairs. Error(usage)
// for a budget that cannot hold the diagonal.
LayoutPtr heaviest_tiles(const Geometry& geometry, const Tensor& mass, std::int64_t budget);

// The same tiles, each head with those of another one (a random cyclic order; the same for one head).
LayoutPtr with_shuffled_heads(const TileLayout& layout, std::uint64_t seed);

}  // namespace filigree
