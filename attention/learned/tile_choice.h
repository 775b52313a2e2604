// Layouts that have some of the tiles of another: of what was learned or measured, and the control that gives
// each head another head's tiles.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "attention/pattern.h"
#include "core/tensor.h"

namespace filigree {

// A tile of a head; heads count from 0 within a layout or a mechanism.
struct HeadTile {
  std::int32_t head, q, k;
  auto operator<=>(const HeadTile&) const = default;
};

// Full attention: what all heads may compute, causal or not.
LayoutPtr full_layout(const Geometry& geometry, int n_heads);

std::vector<HeadTile> tiles_of(const TileLayout& layout);

// A layout, and for each of its tiles an entry of a table of gates.
struct ChosenTiles {
  LayoutPtr layout;
  std::vector<std::int32_t> entries;  // as gates are ordered, see TileLayout::gate_offset
};
// Says of a tile whether it is computed, and its entry.
using TileChooser = std::function<std::optional<std::int32_t>(int head, std::int64_t q, std::int64_t k)>;
ChosenTiles choose(const TileLayout& all, const TileChooser& chooser);

// The layout of those of these tiles that `all` has.
LayoutPtr with_tiles(const TileLayout& all, std::span<const HeadTile> tiles);

// One-shot calibration: the diagonal, and then the tiles of the greatest mass until `budget` tiles of all
// heads are chosen. mass f64 [H, query tiles, key tiles]: attention weights summed over pairs. Error(usage)
// for a budget that cannot hold the diagonal.
LayoutPtr heaviest_tiles(const Geometry& geometry, const Tensor& mass, std::int64_t budget);

// The same tiles, each head with those of another one (a random cyclic order; the same for one head).
LayoutPtr with_shuffled_heads(const TileLayout& layout, std::uint64_t seed);

}  // namespace filigree
