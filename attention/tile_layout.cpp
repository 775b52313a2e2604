// Validation and completion of a TileLayout. Layout files come from strangers, so everything is checked.
#include "attention/tile_layout.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "core/parallel.h"

namespace filigree {
namespace {

// The facts about a mask that the checks need, found once per mask rather than once per tile.
struct MaskFacts {
  std::int64_t pairs = 0;
  int rows = 0, columns = 0;  // smallest extent that holds every set bit
  bool lower = true;          // nothing beyond the diagonal
};

MaskFacts facts_of(const MaskTable& masks, std::int32_t id) {
  MaskFacts facts;
  const auto words = masks.mask(id);
  const int per_row = masks.words_per_row();
  for (int r = 0; r < masks.tile(); ++r) {
    for (int w = 0; w < per_row; ++w) {
      const std::uint64_t bits = words[r * per_row + w];
      if (bits == 0) continue;
      const int last = w * 64 + 63 - std::countl_zero(bits);
      facts.pairs += std::popcount(bits);
      facts.rows = r + 1;
      facts.columns = std::max(facts.columns, last + 1);
      facts.lower = facts.lower && last <= r;
    }
  }
  return facts;
}

template <class... Args>
void valid(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) [[unlikely]]
    throw Error(ErrorKind::data, "invalid layout: " + fmt::format(format, std::forward<Args>(args)...));
}

// Checks and completes the patterns of one layout.
class Completer {
 public:
  Completer(const TileLayout& layout, const MaskTable& masks)
      : n_queries_(layout.n_queries()),
        n_keys_(layout.n_keys()),
        tile_(layout.tile()),
        causal_(layout.causal()),
        query_tiles_(layout.query_tiles()),
        key_tiles_(layout.key_tiles()) {
    for (std::int32_t id = 0; id < masks.size(); ++id) facts_.push_back(facts_of(masks, id));
  }

  void complete(TilePattern& p, std::size_t number) const {
    check_shape(p, number);
    std::vector<std::int32_t> seen_in(key_tiles_, -1);
    p.full_begin.resize(query_tiles_);
    p.exact_pairs = 0;
    for (std::int64_t q = 0; q < query_tiles_; ++q) {
      for (auto t = p.row_offsets[q]; t < p.row_offsets[q + 1]; ++t) {
        check_tile(p, number, q, t);
        auto& seen = seen_in[p.columns[t]];
        valid(seen != q, "pattern {} lists tile ({}, {}) twice", number, q, p.columns[t]);
        seen = static_cast<std::int32_t>(q);
      }
      order_row(p, q);
    }
    transpose(p);
  }

 private:
  void check_shape(const TilePattern& p, std::size_t number) const {
    valid(p.row_offsets.size() == static_cast<std::size_t>(query_tiles_) + 1,
          "pattern {} has {} row offsets for {} query tiles", number, p.row_offsets.size(), query_tiles_);
    valid(p.columns.size() <= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()),
          "pattern {} has {} tiles, more than 2^31-1", number, p.columns.size());
    valid(p.mask_id.size() == p.columns.size(), "pattern {} has {} columns but {} mask ids", number,
          p.columns.size(), p.mask_id.size());
    valid(p.row_offsets.front() == 0, "pattern {}: row offsets start at {}, not 0", number,
          p.row_offsets.front());
    valid(p.row_offsets.back() == p.tiles(), "pattern {}: row offsets end at {}, but there are {} tiles",
          number, p.row_offsets.back(), p.tiles());
    valid(std::is_sorted(p.row_offsets.begin(), p.row_offsets.end()), "pattern {}: row offsets decrease",
          number);
  }

  void check_tile(TilePattern& p, std::size_t number, std::int64_t q, std::int32_t t) const {
    const std::int64_t k = p.columns[t];
    const std::int32_t id = p.mask_id[t];
    valid(k >= 0 && k < key_tiles_, "pattern {}, query tile {}: key tile {} is outside 0..{}", number, q, k,
          key_tiles_ - 1);
    const std::int64_t rows = std::min<std::int64_t>(tile_, n_queries_ - q * tile_);
    const std::int64_t columns = std::min<std::int64_t>(tile_, n_keys_ - k * tile_);
    valid(!causal_ || k <= q, "pattern {}: causal, but tile ({}, {}) lies beyond the diagonal", number, q, k);
    if (id == kFullTile) {
      valid(!causal_ || k < q || columns == 1,
            "pattern {}: causal, but the diagonal tile ({}, {}) is marked full", number, q, k);
      p.exact_pairs += rows * columns;
      return;
    }
    valid(id >= 0 && id < static_cast<std::int32_t>(facts_.size()),
          "pattern {}, tile ({}, {}): mask {} is not among the {} masks", number, q, k, id, facts_.size());
    const MaskFacts& mask = facts_[id];
    valid(mask.rows <= rows && mask.columns <= columns,
          "pattern {}, tile ({}, {}): mask {} allows pairs outside the sequence", number, q, k, id);
    valid(!causal_ || k < q || mask.lower,
          "pattern {}, tile ({}, {}): causal, but mask {} allows keys beyond the diagonal", number, q, k, id);
    p.exact_pairs += mask.pairs;
  }

  // Brings a row into partial-then-full order, each ascending, and sets its full_begin.
  static void order_row(TilePattern& p, std::int64_t q) {
    const std::int32_t begin = p.row_offsets[q], end = p.row_offsets[q + 1];
    const auto key = [&](std::int32_t t) { return std::pair(p.mask_id[t] == kFullTile, p.columns[t]); };
    bool ordered = true;
    for (auto t = begin + 1; t < end && ordered; ++t) ordered = key(t - 1) < key(t);
    if (!ordered) {
      std::vector<std::int32_t> order(end - begin), columns, ids;
      std::iota(order.begin(), order.end(), begin);
      std::sort(order.begin(), order.end(), [&](auto a, auto b) { return key(a) < key(b); });
      for (auto t : order) {
        columns.push_back(p.columns[t]);
        ids.push_back(p.mask_id[t]);
      }
      std::copy(columns.begin(), columns.end(), p.columns.begin() + begin);
      std::copy(ids.begin(), ids.end(), p.mask_id.begin() + begin);
    }
    const auto first = p.mask_id.begin();
    const auto full = std::find(first + begin, first + end, kFullTile);
    p.full_begin[q] = static_cast<std::int32_t>(full - first);
  }

  void transpose(TilePattern& p) const {
    p.col_offsets.assign(static_cast<std::size_t>(key_tiles_) + 1, 0);
    for (auto k : p.columns) ++p.col_offsets[k + 1];
    std::partial_sum(p.col_offsets.begin(), p.col_offsets.end(), p.col_offsets.begin());
    p.rows.resize(p.columns.size());
    p.tile_of.resize(p.columns.size());
    std::vector<std::int32_t> next(p.col_offsets.begin(), p.col_offsets.end() - 1);
    for (std::int64_t q = 0; q < query_tiles_; ++q) {
      for (auto t = p.row_offsets[q]; t < p.row_offsets[q + 1]; ++t) {
        const auto place = next[p.columns[t]]++;
        p.rows[place] = static_cast<std::int32_t>(q);
        p.tile_of[place] = t;
      }
    }
  }

  std::int64_t n_queries_, n_keys_;
  int tile_;
  bool causal_;
  std::int64_t query_tiles_, key_tiles_;
  std::vector<MaskFacts> facts_;
};

template <class T>
std::int64_t bytes_of(const std::vector<T>& v) {
  return static_cast<std::int64_t>(v.size() * sizeof(T));
}

}  // namespace

TileLayout::TileLayout(std::int64_t n_queries, std::int64_t n_keys, int tile, bool causal,
                       std::vector<TilePattern> patterns, std::vector<std::int32_t> head_pattern,
                       MaskTable masks)
    : n_queries_(n_queries),
      n_keys_(n_keys),
      tile_(tile),
      causal_(causal),
      patterns_(std::move(patterns)),
      head_pattern_(std::move(head_pattern)),
      masks_(std::move(masks)) {
  valid(is_tile_edge(tile_), "tile edge {} is not 16, 32, 64 or 128", tile_);
  valid(masks_.tile() == tile_, "masks of edge {} for tiles of edge {}", masks_.tile(), tile_);
  valid(n_queries_ >= 1 && n_queries_ <= kMaxLength, "{} queries, expected 1 to 2^30", n_queries_);
  valid(n_keys_ >= 1 && n_keys_ <= kMaxLength, "{} keys, expected 1 to 2^30", n_keys_);
  valid(!head_pattern_.empty(), "no heads");
  for (std::size_t h = 0; h < head_pattern_.size(); ++h) {
    valid(head_pattern_[h] >= 0 && static_cast<std::size_t>(head_pattern_[h]) < patterns_.size(),
          "head {} uses pattern {}, but there are {} patterns", h, head_pattern_[h], patterns_.size());
  }
  const Completer completer(*this, masks_);
  parallel_tasks(std::ssize(patterns_),
                 [&](std::int64_t p) { completer.complete(patterns_[p], static_cast<std::size_t>(p)); });
  gate_offsets_.assign(1, 0);
  for (auto p : head_pattern_) gate_offsets_.push_back(gate_offsets_.back() + patterns_[p].tiles());
}

bool TileLayout::allows(int head, std::int64_t i, std::int64_t j) const {
  const TilePattern& p = of_head(head);
  const std::int64_t q = i / tile_;
  const auto key_tile = static_cast<std::int32_t>(j / tile_);
  const auto begin = p.columns.begin() + p.row_offsets[q];
  const auto full = p.columns.begin() + p.full_begin[q];
  const auto end = p.columns.begin() + p.row_offsets[q + 1];
  if (std::binary_search(full, end, key_tile)) return true;
  const auto found = std::lower_bound(begin, full, key_tile);
  if (found == full || *found != key_tile) return false;
  const auto id = p.mask_id[found - p.columns.begin()];
  return masks_.bit(id, static_cast<int>(i % tile_), static_cast<int>(j % tile_));
}

LayoutStatistics TileLayout::statistics() const {
  LayoutStatistics s;
  for (auto p : head_pattern_) {
    s.exact_pairs += patterns_[p].exact_pairs;
    s.computed_tiles += patterns_[p].tiles();
  }
  for (const auto& p : patterns_)
    for (std::int64_t q = 0; q < query_tiles(); ++q)
      s.max_tiles_per_row =
          std::max<std::int64_t>(s.max_tiles_per_row, p.row_offsets[q + 1] - p.row_offsets[q]);
  const double rows = static_cast<double>(query_tiles()) * n_heads();
  s.mean_tiles_per_row = static_cast<double>(s.computed_tiles) / rows;
  s.full_tiles = n_heads() * full_cells(query_tiles(), key_tiles(), causal_);
  s.full_pairs = n_heads() * full_cells(n_queries_, n_keys_, causal_);
  return s;
}

std::string percent_text(double share) {
  const double percent = 100 * share;
  return percent > 0 && percent < 1 ? fmt::format("{:.2g} %", percent) : fmt::format("{:.1f} %", percent);
}

std::string of_full_text(double part, double full, std::string_view what) {
  return fmt::format("{} of full attention's {}", percent_text(part / full), what);
}

std::int64_t TileLayout::bytes() const {
  std::int64_t total = std::int64_t{8} * masks_.words_per_mask() * masks_.size() + bytes_of(head_pattern_) +
                       bytes_of(gate_offsets_);
  for (const auto& p : patterns_) {
    total += bytes_of(p.row_offsets) + bytes_of(p.full_begin) + bytes_of(p.columns) + bytes_of(p.mask_id) +
             bytes_of(p.col_offsets) + bytes_of(p.rows) + bytes_of(p.tile_of);
  }
  return total;
}

}  // namespace filigree
