// A TileLayout as tensors on a device, with the order of work that suits its kernels. Made once per layout,
// device and number of kv heads, and kept by the layout: TileLayout::on().
//
// All patterns lie behind each other: with QT query tiles and KT key tiles, pattern p's row r is the range
// [row_offsets[p (QT + 1) + r], row_offsets[p (QT + 1) + r + 1]) of `columns` and `mask_id`: offsets are
// absolute, the first row of a pattern begins where the last row of the one before ended. The same for the
// transpose: col_offsets[p (KT + 1) + c] delimits `rows` and `tile_of`, and tile_of holds absolute tiles too.
// Gates: tile t (absolute) of head h is element gate_base[h] + t of a gate [gate_size].
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
};

// --- visits of the Hopper forward (attention/cuda/forward_sm90.cu) ---
//
// A CTA owns a group of neighbouring blocks of queries, whatever the tile edge, and visits the union of their
// rows' tiles, 128 keys at a time: one tile of 128, or two of 64 side by side. Visits that no mask cuts come
// first, so that every query soon has a score to begin with. Tiles of 64 that the same blocks want are paired
// first, for what a block does not want of a visit is computed in vain.

constexpr int kVisitBlock = 64;  // queries of a warpgroup
constexpr int kMaxVisitBlocks = 3;
// Blocks of a CTA: as many as its registers allow.
constexpr int visit_blocks(std::int64_t head_dim) {
  return head_dim == 64 ? 3 : 2;
}
constexpr std::int32_t kNotVisited = kFullTile - 2;  // beside the masks; kFullTile - 1 is left to the kernels

struct Visit {
  std::int32_t key[2];                    // the first of each half
  std::int32_t mask[kMaxVisitBlocks][2];  // for each block
};
struct VisitTiles {
  std::int32_t tile[kMaxVisitBlocks][2];  // absolute, for the gate
  std::int32_t unused[2];
};

struct QueryVisits {
  Tensor visits;  // i32 [n, 8], each a Visit
  Tensor tiles;   // i32 [n, 8], each a VisitTiles
  Tensor ticket;  // i32 [1], 0 between launches: the next item to be drawn
  WorkList work;  // of an item, `tile` is the group of blocks, `begin` and `end` are visits
};

// For layouts with tiles of 64 or 128.
QueryVisits make_query_visits(const TileLayout& layout, int blocks, Device device);

// Error(usage) for 2^31 tiles or more over all patterns.
DeviceLayout make_device_layout(const TileLayout& layout, int n_kv_heads, Device device);

}  // namespace filigree
