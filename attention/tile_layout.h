// TileLayout: which (query tile, key tile) pairs each head computes. The only thing kernels know of a
// pattern.
//
// N queries and M keys are cut into tiles of edge T; the last tile of each side may be ragged. A computed
// tile is *full* (every pair inside N x M is allowed) or *partial* (it names an entry of the table of
// distinct T x T bit masks; bits outside N x M are 0). Heads with the same pattern share one TilePattern.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"
#include "core/device.h"

namespace filigree {

struct DeviceLayout;
struct QueryVisits;
class TileLayout;

inline constexpr std::int32_t kFullTile = -1;
inline constexpr std::int64_t kMaxLength = std::int64_t{1} << 30;  // queries or keys

// Tile edges are 16, 32, 64 or 128.
constexpr bool is_tile_edge(std::int64_t tile) {
  return tile == 16 || tile == 32 || tile == 64 || tile == 128;
}

// The distinct bit masks of a layout. A row of a mask is words_per_row() 64-bit words; bit j of the row (word
// j / 64, bit j % 64) says whether key column j of the tile is allowed.
class MaskTable {
 public:
  explicit MaskTable(int tile = 64) : tile_(tile) {}
  int tile() const { return tile_; }
  int words_per_row() const { return (tile_ + 63) / 64; }
  int words_per_mask() const { return tile_ * words_per_row(); }
  std::int32_t size() const { return static_cast<std::int32_t>(words_.size() / words_per_mask()); }
  std::span<const std::uint64_t> mask(std::int32_t id) const {
    return {words_.data() + static_cast<std::size_t>(id) * words_per_mask(),
            static_cast<std::size_t>(words_per_mask())};
  }
  bool bit(std::int32_t id, int row, int column) const {
    return mask(id)[row * words_per_row() + column / 64] >> (column % 64) & 1u;
  }
  void append(std::span<const std::uint64_t> mask) { words_.insert(words_.end(), mask.begin(), mask.end()); }
  bool operator==(const MaskTable&) const = default;

 private:
  int tile_;
  std::vector<std::uint64_t> words_;
};

// CSR of one distinct pattern over query tiles, and its transpose over key tiles. In a row the partial tiles
// come first, then the full ones, each in ascending key tile. Tile number t (0 <= t < tiles()) is its place
// in `columns`: gates and their gradients are indexed by it.
struct TilePattern {
  std::vector<std::int32_t> row_offsets;  // [query_tiles + 1]
  std::vector<std::int32_t> full_begin;   // [query_tiles]: first full tile of the row, as an index in columns
  std::vector<std::int32_t> columns;      // [tiles]: key tile
  std::vector<std::int32_t> mask_id;      // [tiles]: kFullTile or an entry of the mask table
  std::vector<std::int32_t> col_offsets;  // [key_tiles + 1]
  std::vector<std::int32_t> rows;         // [tiles]: query tile, ascending within a column
  std::vector<std::int32_t> tile_of;      // [tiles]: tile number of this entry of the transpose
  std::int64_t exact_pairs = 0;           // allowed (query, key) pairs

  std::int64_t tiles() const { return std::ssize(columns); }
  bool operator==(const TilePattern&) const = default;
};

// Full attention is the measure of every share: of its tiles and pairs, those of the causal triangle where
// the model is causal, over all heads.
struct LayoutStatistics {
  std::int64_t exact_pairs = 0, full_pairs = 0;
  std::int64_t computed_tiles = 0, full_tiles = 0;
  double mean_tiles_per_row = 0;
  std::int64_t max_tiles_per_row = 0;
};

// The pairs or tiles of full attention among `rows` x `columns`: all, or those with column <= row.
constexpr std::int64_t full_cells(std::int64_t rows, std::int64_t columns, bool causal) {
  if (!causal) return rows * columns;
  const std::int64_t corner = rows < columns ? rows : columns;
  return corner * (corner + 1) / 2 + (rows - corner) * columns;
}

// A share as people read it: "28.4 %", below 1 % with two digits: "0.45 %".
std::string percent_text(double share);
// "28.4 % of full attention's tiles": the one way to say it, of `tiles` or `pairs`.
std::string of_full_text(double part, double full, std::string_view what = "tiles");

// The DeviceLayouts and QueryVisits of one TileLayout. A copy starts without any, and equality does not look at them.
class DeviceLayouts {
 public:
  DeviceLayouts();
  DeviceLayouts(const DeviceLayouts&) : DeviceLayouts() {}
  DeviceLayouts& operator=(const DeviceLayouts&);
  bool operator==(const DeviceLayouts&) const { return true; }

  const DeviceLayout& get(const TileLayout& of, Device device, int n_kv_heads) const;
  const QueryVisits& visits(const TileLayout& of, Device device, int blocks) const;

 private:
  struct Made;
  std::shared_ptr<Made> made_;
};

class TileLayout {
 public:
  // head_pattern[h] indexes `patterns`. Completes each pattern's transpose, full_begin and exact_pairs from
  // row_offsets / columns / mask_id (which it sorts into partial-then-full order), validates everything and
  // throws Error(data) saying what is wrong.
  TileLayout(std::int64_t n_queries, std::int64_t n_keys, int tile, bool causal,
             std::vector<TilePattern> patterns, std::vector<std::int32_t> head_pattern, MaskTable masks);

  std::int64_t n_queries() const { return n_queries_; }
  std::int64_t n_keys() const { return n_keys_; }
  int tile() const { return tile_; }
  bool causal() const { return causal_; }
  int n_heads() const { return static_cast<int>(head_pattern_.size()); }
  std::int64_t query_tiles() const { return (n_queries_ + tile_ - 1) / tile_; }
  std::int64_t key_tiles() const { return (n_keys_ + tile_ - 1) / tile_; }

  const std::vector<TilePattern>& patterns() const { return patterns_; }
  const std::vector<std::int32_t>& head_pattern() const { return head_pattern_; }
  const TilePattern& of_head(int head) const { return patterns_[head_pattern_[head]]; }
  const MaskTable& masks() const { return masks_; }

  // Gates are one flat vector per layout: head h's tile t is element gate_offset(h) + t.
  std::int64_t gate_offset(int head) const { return gate_offsets_[head]; }
  std::int64_t gate_size() const { return gate_offsets_.back(); }

  // True if (head, i, j) is allowed. For tests and pictures: a search in the row's tiles.
  bool allows(int head, std::int64_t i, std::int64_t j) const;
  LayoutStatistics statistics() const;
  std::int64_t bytes() const;  // memory held
  // As tensors on a device (attention/device_layout.h): made at first use and kept, thread-safe.
  const DeviceLayout& on(Device device, int n_kv_heads) const {
    return device_layouts_.get(*this, device, n_kv_heads);
  }
  const QueryVisits& visits(Device device, int blocks) const {
    return device_layouts_.visits(*this, device, blocks);
  }
  // Two layouts that build_layout made are equal exactly where they allow the same pairs.
  bool operator==(const TileLayout&) const = default;

 private:
  std::int64_t n_queries_, n_keys_;
  int tile_;
  bool causal_;
  std::vector<TilePattern> patterns_;
  std::vector<std::int32_t> head_pattern_;
  std::vector<std::int64_t> gate_offsets_;  // [n_heads + 1]
  MaskTable masks_;
  DeviceLayouts device_layouts_;
};

using LayoutPtr = std::shared_ptr<const TileLayout>;

// Layout files (HDF5) are what `explain --dump` writes and `block: {file: ..}` reads:
//   attributes            n_queries, n_keys, tile, n_heads, causal
//   head_pattern          int32 [H]: the pattern of each head
//   pattern_P/            a group for each distinct pattern, P = 0, 1, ..; its tiles by query tile:
//     row_offsets         int32 [query tiles + 1]
//     columns, mask_id    int32 [tiles]: the key tile; its entry in `masks`, or -1 where all pairs are
//     allowed
//   masks                 uint8 [masks, tile * tile / 8]: row by row, the lowest bit first
//   mask                  uint8 [H, N, M]: 1 where a pair is allowed; for people and for checks only, and
//                         written for at most kMaxExactMask queries and keys
inline constexpr std::int64_t kMaxExactMask = 4096;
void save_layout(const TileLayout& layout, const std::string& path, bool with_exact_mask);
TileLayout load_layout(const std::string& path);

// A checkpoint holds the bytes of the layout files that its pattern reads, so that it stays whole wherever it
// is moved; a pattern names one by their sum, `block: {layout: SUM}`. hold_layout makes the bytes known to
// the end of the process and returns the sum, their hex xxhash64. `name` names them in messages: Error(data)
// if they are no layout. held_layout is null where nothing that was read has this sum.
std::string hold_layout(std::string_view file, const std::string& name);
LayoutPtr held_layout(const std::string& sum);

}  // namespace filigree
