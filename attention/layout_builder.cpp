// Pattern -> TileLayout, one row of tiles at a time. Key tiles wholly inside every query's intervals are full
// and cost O(1) each; only tiles that the interval ends touch get a bit mask.
#include <bit>
#include <limits>
#include <unordered_map>

#include "attention/mask_interner.h"
#include "attention/pattern.h"

namespace filigree {
namespace {

struct TileRange {
  std::int64_t begin, end;
};

class LayoutBuilder {
 public:
  LayoutBuilder(const Pattern& pattern, const Geometry& g, MaskInterner& masks)
      : pattern_(pattern),
        g_(g),
        masks_(masks),
        tiles_((g.n + g.tile - 1) / g.tile),
        words_per_row_((g.tile + 63) / 64),
        words_per_mask_(words_per_row_ * g.tile),
        rows_(g.tile),
        slot_of_(tiles_, -1) {}

  TilePattern build(int head) {
    TilePattern out;
    out.row_offsets.push_back(0);
    for (std::int64_t q = 0; q < tiles_; ++q) {
      read_rows(head, q);
      find_full_ranges();
      for (int r = 0; r < height_; ++r) mark_partial(r);
      emit(out);
      require(out.columns.size() <= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()),
              "[build_layout] more than 2^31-1 tiles at {} tokens and tile edge {}; use larger tiles or a "
              "sparser pattern",
              g_.n, g_.tile);
      out.row_offsets.push_back(static_cast<std::int32_t>(out.columns.size()));
    }
    return out;
  }

 private:
  // The rows of query tile q, cut to the keys that exist and that causality allows.
  void read_rows(int head, std::int64_t q) {
    const std::int64_t first = q * g_.tile;
    height_ = static_cast<int>(std::min<std::int64_t>(g_.tile, g_.n - first));
    for (int r = 0; r < height_; ++r) {
      pattern_.row(g_, head, first + r, rows_[r]);
      clip(rows_[r], g_.causal ? first + r + 1 : g_.n);
    }
  }

  // Tiles inside the intersection of all rows.
  void find_full_ranges() {
    common_ = rows_[0];
    for (int r = 1; r < height_ && !common_.empty(); ++r) {
      intersect(common_, rows_[r], scratch_);
      common_.swap(scratch_);
    }
    full_ranges_.clear();
    for (const Interval& keys : common_) {
      const std::int64_t begin = (keys.begin + g_.tile - 1) / g_.tile;
      const std::int64_t end = keys.end == g_.n ? tiles_ : keys.end / g_.tile;
      if (begin < end) full_ranges_.push_back({begin, end});
    }
  }

  // Sets the bits of row r in every tile that is not in a full range.
  void mark_partial(int r) {
    auto full = full_ranges_.begin();
    for (const Interval& keys : rows_[r]) {
      std::int64_t key = keys.begin;
      while (key < keys.end) {
        const std::int64_t tile = key / g_.tile;
        while (full != full_ranges_.end() && full->end <= tile) ++full;
        if (full != full_ranges_.end() && full->begin <= tile) {
          key = full->end * g_.tile;
          continue;
        }
        const std::int64_t first = tile * g_.tile, end = std::min(keys.end, first + g_.tile);
        set_bits(mask_of(tile) + r * words_per_row_, static_cast<int>(key - first),
                 static_cast<int>(end - first));
        key = end;
      }
    }
  }

  static void set_bits(std::uint64_t* row, int begin, int end) {
    for (int w = begin / 64; w * 64 < end; ++w) {
      const int low = std::max(begin - w * 64, 0), high = std::min(end - w * 64, 64);
      row[w] |= (~std::uint64_t{0} >> (64 - (high - low))) << low;
    }
  }

  std::uint64_t* mask_of(std::int64_t tile) {
    auto& slot = slot_of_[tile];
    if (slot < 0) {
      slot = static_cast<std::int32_t>(touched_.size());
      touched_.push_back(static_cast<std::int32_t>(tile));
      words_.resize(touched_.size() * words_per_mask_, 0);
    }
    return words_.data() + static_cast<std::size_t>(slot) * words_per_mask_;
  }

  // Appends this row of tiles: the partial ones, then the full ones. Forgets the touched tiles.
  void emit(TilePattern& out) {
    std::sort(touched_.begin(), touched_.end());
    for (const std::int32_t tile : touched_) {
      const std::span<const std::uint64_t> mask(mask_of(tile), static_cast<std::size_t>(words_per_mask_));
      std::int64_t pairs = 0;
      for (const std::uint64_t word : mask) pairs += std::popcount(word);
      // Rows whose intervals only touch each other can fill a tile that the intersection does not show.
      if (pairs == height_ * std::min<std::int64_t>(g_.tile, g_.n - std::int64_t{tile} * g_.tile)) {
        filled_.push_back(tile);
      } else {
        out.columns.push_back(tile);
        out.mask_id.push_back(masks_.id_of(mask));
      }
    }
    auto filled = filled_.begin();
    for (const TileRange& range : full_ranges_) {
      for (; filled != filled_.end() && *filled < range.begin; ++filled) out.columns.push_back(*filled);
      for (std::int64_t tile = range.begin; tile < range.end; ++tile)
        out.columns.push_back(static_cast<std::int32_t>(tile));
    }
    out.columns.insert(out.columns.end(), filled, filled_.end());
    out.mask_id.resize(out.columns.size(), kFullTile);

    for (const std::int32_t tile : touched_) slot_of_[tile] = -1;
    touched_.clear();
    filled_.clear();
    words_.clear();
  }

  const Pattern& pattern_;
  const Geometry& g_;
  MaskInterner& masks_;
  std::int64_t tiles_;
  int words_per_row_, words_per_mask_;
  int height_ = 0;               // queries in this row of tiles
  std::vector<Intervals> rows_;  // one per query of the tile
  Intervals common_, scratch_;
  std::vector<TileRange> full_ranges_;
  // Tiles that need a mask: their slot in words_, by key tile, and the slots' tiles.
  std::vector<std::int32_t> slot_of_, touched_, filled_;
  std::vector<std::uint64_t> words_;
};

}  // namespace

TileLayout build_layout(const Pattern& pattern, const Geometry& g, int n_heads) {
  require(is_tile_edge(g.tile), "[build_layout] tile edge {} is not 16, 32, 64 or 128", g.tile);
  require(g.n >= 1 && g.n <= kMaxLength, "[build_layout] {} tokens, expected 1 to 2^30", g.n);
  require(n_heads >= 1, "[build_layout] {} heads, expected at least 1", n_heads);
  pattern.validate(g, n_heads);

  MaskInterner masks(g.tile);
  LayoutBuilder builder(pattern, g, masks);
  std::unordered_map<int, std::int32_t> pattern_of_class;
  std::vector<TilePattern> patterns;
  std::vector<std::int32_t> head_pattern;
  for (int head = 0; head < n_heads; ++head) {
    const auto [known, is_new] = pattern_of_class.try_emplace(pattern.head_class(head), 0);
    if (is_new) {
      TilePattern built = builder.build(head);
      // Classes may still turn out the same set of pairs: equal masks have equal ids.
      const auto equal = std::find(patterns.begin(), patterns.end(), built);
      known->second = static_cast<std::int32_t>(equal - patterns.begin());
      if (equal == patterns.end()) patterns.push_back(std::move(built));
    }
    head_pattern.push_back(known->second);
  }
  return TileLayout(g.n, g.n, g.tile, g.causal, std::move(patterns), std::move(head_pattern), masks.take());
}

std::vector<LayoutPtr> build_layer_layouts(const std::vector<PatternPtr>& layers, const Geometry& geometry,
                                           int n_heads) {
  std::vector<LayoutPtr> layouts;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const auto same = std::find(layers.begin(), layers.begin() + static_cast<std::ptrdiff_t>(l), layers[l]);
    if (const auto place = static_cast<std::size_t>(same - layers.begin()); place < l) {
      layouts.push_back(layouts[place]);
      continue;
    }
    auto built = std::make_shared<const TileLayout>(build_layout(*layers[l], geometry, n_heads));
    const auto equal =
        std::find_if(layouts.begin(), layouts.end(), [&](auto& other) { return *other == *built; });
    layouts.push_back(equal == layouts.end() ? built : *equal);
  }
  return layouts;
}

}  // namespace filigree
