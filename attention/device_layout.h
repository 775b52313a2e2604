// A TileLayout as tensors on a device, with the order of work that suits its kernels. Made once per layout,
// device and number of kv heads, and kept by the layout: TileLayout::on().
//
// All patterns lie behind each other: with QT query tiles and KT key tiles, pattern p's row r is the range
// [row_offsets[p (QT + 1) + r], row_offsets[p (QT + 1) + r + 1]) of `columns` and `mask_id`: offsets are
// absolute, the first row of a pattern begins where the last row of the one before ended. The same for the
// transpose: col_offsets[p (KT + 1) + c] delimits `rows` and `tile_of`, and tile_of holds absolute tiles too.
// Gates: tile t (absolute) of head h is element gate_base[h] + t of a gate [gate_size].
//
// Groups of 128 rows, of two tiles of 64 or one of 128, for the kernels that compute so many at once. An item
// there has the visits of its group in streamed tiles [begin, end), and is cut by these.
//
// Work items. A row of more than kSplitTiles(tile) tiles (a global token) is cut into segments of at most
// that many, so that it does not hold the launch up; each segment has a slot in a workspace, and the segments
// of a row are combined in order afterwards. Items are sorted by descending number of tiles (stable).
#pragma once

#include "attention/tile_layout.h"
#include "core/tensor.h"

namespace filigree {

struct WorkItem {
  std::int32_t head;   // query_work: query head; key_work: kv head
  std::int32_t tile;   // query tile; key tile
  std::int32_t begin;  // query_work: tiles [begin, end) of `columns`; key_work: entries [begin, end) of the
  std::int32_t end;   // concatenation, over the query heads of the kv head, of their columns of the transpose
  std::int32_t slot;  // of a segment of a cut row; -1: the item is a whole row (perhaps empty)
};
struct SplitRow {
  std::int32_t head, tile, first_slot, slots;  // its segments' slots follow each other
};

struct WorkList {
  Tensor items;   // i32 [n, 5], each a WorkItem; rows without tiles have an item with begin == end
  Tensor splits;  // i32 [n_splits, 4], each a SplitRow
  std::int64_t n_items = 0, n_splits = 0, n_slots = 0;
};

constexpr std::int64_t kGroupOfRows = 128;

// Tiles of a segment: about 8192 keys (or queries) at most.
constexpr std::int64_t split_tiles(int tile) {
  return 8192 / tile;
}

struct DeviceLayout {
  Tensor head_pattern;                               // i32 [H]
  Tensor row_offsets, full_begin, columns, mask_id;  // i32; full_begin[p QT + r] absolute
  Tensor col_offsets, rows, tile_of;                 // i32
  Tensor gate_base;                                  // i64 [H]
  Tensor masks;         // i64 [masks, words_per_mask], the 64-bit words; at least one
  WorkList query_work;  // forward and dq
  WorkList key_work;    // dk and dv
  // By groups; empty for smaller tiles. The keys' are in descending order of their groups, kv head by kv
  // head: who adds to a query's gradient after another comes later.
  WorkList query_groups, key_groups;
};

// Error(usage) for 2^31 tiles or more over all patterns.
DeviceLayout make_device_layout(const TileLayout& layout, int n_kv_heads, Device device);

}  // namespace filigree
