// What a CTA of the bf16 forward works on, and how it gets into shared memory: the tiles of its item, steps
// of 64 keys of them, and which of those keys each query may see.
#pragma once

#include "attention/cuda/mma.cuh"
#include "attention/device_layout.h"
#include "attention/kernels.h"

namespace filigree::cuda::forward16 {

constexpr int kStep = 64, kHalf = 32;  // keys
constexpr int kWarpRows = 32;          // queries of a warp
constexpr double kLog2E = 1.44269504088896340736;
constexpr int kNoKey = static_cast<int>(kMaxLength);  // behind every key
constexpr int kChain = 4;                             // items of a CTA, at most
// A CTA's lists of tiles lie this far apart, in steps; those of chained items leave room for an end.
constexpr int kListSteps = static_cast<int>(split_tiles(kStep)) / kChain;
constexpr int kListEnd = 2;  // tiles
constexpr int chained_tiles(int tile) {
  return static_cast<int>(split_tiles(tile)) / kChain - kListEnd;
}

// Rows of q, k or v.
struct Rows {
  const char* data;
  std::int64_t batch_stride;  // bytes
  int stride;                 // bytes

  template <int D>
  __device__ const char* row(int b, int n, int head) const {
    return data + b * batch_stride + static_cast<std::int64_t>(n) * stride + head * (2 * D);
  }
};

// Shared memory of a CTA: where what begins, in bytes.
struct SharedLayout {
  // The chain of items, then
  int tiles;    // their lists
  int ranges;   // [T] KeyRange, of each query; row bounds only
  int masks;    // [2, 2, T] words: of a step, a half of it, each query
  int queries;  // [T, D]
  int steps;    // room for one or two: keys [kStep, D], values [kStep, D]
  int bytes;    // of all
};

struct Problem {
  Rows q, k;
  std::int64_t values_at;  // bytes from an element of k to that of v: they are laid out alike
  const WorkItem* items;
  const std::int32_t *columns, *mask_id;
  const std::int64_t* gate_base;
  const std::uint32_t* masks;
  int mask_words;          // 32-bit words per row of a mask
  std::int64_t mask_size;  // and per mask
  const float* gate;       // nullptr: 1
  std::int64_t gate_batch_stride;
  const std::int32_t* row_bounds;  // nullptr: every key
  const float* slopes;             // nullptr: no ALiBi
  int n_items;                     // for all batches
  int n_alone;                     // the first of them, which have a CTA each
  int n_chains;                    // CTAs for the others
  int B, N, M, H;
  int heads_per_kv;
  int tile, tile_shift;  // T = 2^tile_shift
  float log2_scale;      // scale log2(e)
  SharedLayout shared;
  bool deep;  // shared memory holds two steps, not one
  // A step is copied by so many keys at a time, each time in passes of so many rows.
  int copy_keys, copy_passes, copy_rows;
  std::int64_t copy_advance;          // bytes from pass to pass in k and v
  std::uint32_t copy_shared_advance;  // and in shared memory
  bfloat16* o;
  float* lse;
  float *segment_o, *segment_lse;  // [slots, B, T, D] and, in units of log 2, [slots, B, T]
};

struct Place {
  WorkItem item;
  int b;
  int first_row;  // the warp's first query
};

// A CTA begins with the item of its own number. Short items are chained: so many CTAs share them that each
// goes on with the items n_chains, 2 n_chains ... behind, and loads an item's first step and queries while it
// works on the item before. Batches vary fastest: the longest items of all of them come first.
__device__ inline int chain_length(const Problem& p) {
  const int i = static_cast<int>(blockIdx.x);
  return i < p.n_alone ? 1 : (p.n_items - 1 - i) / p.n_chains + 1;
}

__device__ inline Place place_of(const Problem& p, const WorkItem& item, int b) {
  return {item, b, item.tile * p.tile + warp_id() * kWarpRows};
}
__device__ inline Place chained_place(const Problem& p, int number) {
  const int i = static_cast<int>(blockIdx.x) + number * p.n_chains;
  return place_of(p, p.items[i / p.B], i % p.B);
}

// --- shared memory ---

struct KeyRange {
  int low, high;  // keys [low, high)
};

struct alignas(16) ChainedItem {
  WorkItem item;
  int b;
  int steps;         // at least 1, which may be empty
  bool followed;     // by another item of the CTA
  float log2_slope;  // of ALiBi, in units of log 2
};

// A step of a CTA: its number says what tiles it has, its buffer where the copies of it lie.
struct Turn {
  int step;    // kListSteps i + that of item i
  int buffer;  // 0 or 1, in turn
};

// A tile that has to be computed. Its mask is an entry of the mask table, kFullTile if all queries of the CTA
// may see all of its keys, or kCutTile if only the row bounds or the end of the keys say which ones.
struct alignas(16) Tile {
  int key;  // its first
  int mask;
  float log2_gate;
};
constexpr int kCutTile = kFullTile - 1;

template <int D>
__host__ __device__ constexpr int row_bytes(int rows) {
  return rows * kRowStride<D> * 2;
}

template <int D>
SharedLayout shared_layout(int tile, bool deep) {
  SharedLayout at{};
  at.tiles = kChain * static_cast<int>(sizeof(ChainedItem));
  at.ranges = at.tiles + (static_cast<int>(split_tiles(tile)) + kListEnd) * static_cast<int>(sizeof(Tile));
  at.masks = at.ranges + tile * static_cast<int>(sizeof(KeyRange));
  at.queries = at.masks + 2 * 2 * tile * 4;
  at.steps = at.queries + row_bytes<D>(tile);
  at.bytes = at.steps + (deep ? 4 : 2) * row_bytes<D>(kStep);
  return at;
}

template <int D>
class Shared {
 public:
  __device__ Shared(const Problem& p, uint4* room) : p_(p), room_(reinterpret_cast<char*>(room)) {}

  __device__ ChainedItem& item(int number) const { return reinterpret_cast<ChainedItem*>(room_)[number]; }
  __device__ Place place(int number) const {
    const ChainedItem& at = item(number);
    return place_of(p_, at.item, at.b);
  }
  __device__ Tile* tiles() const { return reinterpret_cast<Tile*>(room_ + p_.shared.tiles); }
  // Of the thread's query.
  __device__ KeyRange& range() const {
    return reinterpret_cast<KeyRange*>(room_ + p_.shared.ranges)[threadIdx.x];
  }
  __device__ std::uint32_t& mask(int buffer, int half) const {
    return reinterpret_cast<std::uint32_t*>(room_ +
                                            p_.shared.masks)[(buffer * 2 + half) * p_.tile + threadIdx.x];
  }
  // Of the warp.
  __device__ char* queries() const { return room_ + p_.shared.queries + warp_id() * row_bytes<D>(kWarpRows); }
  __device__ std::uint32_t keys(int buffer) const {
    return shared_address(room_) + p_.shared.steps + (p_.deep ? buffer : 0) * (2 * row_bytes<D>(kStep));
  }
  __device__ std::uint32_t values(int buffer) const { return keys(buffer) + row_bytes<D>(kStep); }

 private:
  const Problem& p_;
  char* room_;
};

// --- the list of tiles ---

__device__ inline KeyRange key_range(const Problem& p, int b, int query) {
  if (!p.row_bounds) return {0, p.M};
  if (query >= p.N) return {0, 0};
  const std::int32_t* bounds = p.row_bounds + 2 * (static_cast<std::int64_t>(b) * p.N + query);
  return {max(bounds[0], 0), min(bounds[1], p.M)};
}

// The keys from the first to the last that some query of the CTA may see, and those that all may see.
struct JointRange {
  KeyRange some, all;
};

__device__ inline JointRange joint_range(const Problem& p, const Place& at) {
  if (!p.row_bounds) return {{0, p.M}, {0, p.M}};
  const int first_row = at.item.tile * p.tile, rows = min(p.tile, p.N - first_row);
  JointRange joint{{kNoKey, 0}, {0, kNoKey}};
  for (int row = lane_id(); row < rows; row += kWarpSize) {
    const KeyRange range = key_range(p, at.b, first_row + row);
    joint.all = {max(joint.all.low, range.low), min(joint.all.high, range.high)};
    if (range.low < range.high)
      joint.some = {min(joint.some.low, range.low), max(joint.some.high, range.high)};
  }
  return {{__reduce_min_sync(kWholeWarp, joint.some.low), __reduce_max_sync(kWholeWarp, joint.some.high)},
          {__reduce_max_sync(kWholeWarp, joint.all.low), __reduce_min_sync(kWholeWarp, joint.all.high)}};
}

// One warp lists the item's tiles but those whose gate is 0 or that no query's bounds touch. Returns their
// number.
__device__ inline int list_tiles(const Problem& p, const Place& at, Tile* list) {
  const JointRange range = joint_range(p, at);
  const float* gate = p.gate ? p.gate + at.b * p.gate_batch_stride + p.gate_base[at.item.head] : nullptr;
  int n = 0;
  for (int first = at.item.begin; first < at.item.end; first += kWarpSize) {
    const int t = first + lane_id();
    Tile tile{};
    bool live = t < at.item.end;
    if (live) {
      tile.key = p.columns[t] * p.tile;
      tile.mask = p.mask_id[t];
      const int end = tile.key + p.tile;
      if (tile.mask == kFullTile && (tile.key < range.all.low || end > range.all.high)) tile.mask = kCutTile;
      const float weight = gate ? gate[t] : 1.0f;
      tile.log2_gate = weight == 1 ? 0.0f : log2f(weight);
      live = weight != 0 && tile.key < range.some.high && end > range.some.low;
    }
    const unsigned votes = __ballot_sync(kWholeWarp, live);
    if (live) list[n + __popc(votes & ((1u << lane_id()) - 1u))] = tile;
    n += __popc(votes);
  }
  if (lane_id() < kListEnd) list[n + lane_id()] = {kNoKey, kCutTile, 0.0f};
  return n;
}

// Each warp lists the tiles of some of the CTA's items.
template <int D>
__device__ void list_items(const Problem& p, const Shared<D>& shared) {
  const int warps = p.tile / kWarpRows, items = chain_length(p);
#pragma unroll 1
  for (int i = warp_id(); i < items; i += warps) {
    const Place at = chained_place(p, i);
    const int n = list_tiles(p, at, shared.tiles() + (i * kListSteps * kStep >> p.tile_shift));
    if (lane_id() == 0) {
      ChainedItem& item = shared.item(i);
      item.item = at.item;
      item.b = at.b;
      item.steps = max((n * p.tile + kStep - 1) / kStep, 1);
      item.followed = i + 1 < items;
      item.log2_slope = p.slopes ? static_cast<float>(p.slopes[at.item.head] * kLog2E) : 0.0f;
    }
  }
}

// --- steps: two halves of 32 keys, of one tile for T >= 64, of two tiles that follow each other for T = 32
// ---

struct Half {
  int key;     // the first
  int column;  // of the tile, that key is
  int mask;    // of the tile, as its log2_gate
  float log2_gate;
};

__device__ inline Half half_at(const Problem& p, const Tile* tiles, int slot) {
  const Tile tile = tiles[slot >> p.tile_shift];
  const int column = slot & (p.tile - 1);
  return {tile.key + column, column, tile.mask, tile.log2_gate};
}
struct Step {
  Half halves[2];
};
__device__ inline Step step_at(const Problem& p, const Tile* tiles, int step) {
  return {{half_at(p, tiles, step * kStep), half_at(p, tiles, step * kStep + kHalf)}};
}
// Whether every query of the CTA may see every key.
__device__ inline bool is_full(const Step& step) {
  return (step.halves[0].mask & step.halves[1].mask) == kFullTile;
}

// The thread's part in the copies of keys and values.
template <int D>
struct Copies {
  const char* keys;      // its first unit of the head's key `row`; that of the values is at p.values_at
  int row;               // its first of those copied at a time
  std::uint32_t offset;  // of that in shared memory

  __device__ Copies(const Problem& p, const Place& at)
      : row(warp_id() * kRowsAtOnce<D> + lane_id() / kRowLanes<D>) {
    const int unit = lane_id() % kRowLanes<D> * 16;
    keys = p.k.row<D>(at.b, row, at.item.head / p.heads_per_kv) + unit;
    offset = static_cast<std::uint32_t>(row_bytes<D>(row) + unit);
  }
};

// Copies a step's keys or values or both.
template <int D, bool with_keys, bool with_values>
__device__ void copy_step(const Problem& p, const Shared<D>& shared, const Copies<D>& copies, Turn turn) {
#pragma unroll 1
  for (int first = 0; first < kStep; first += p.copy_keys) {
    const int key = half_at(p, shared.tiles(), turn.step * kStep + first).key;
    const char* from = copies.keys + static_cast<std::int64_t>(key) * p.k.stride;
    std::uint32_t to = shared.keys(turn.buffer) + copies.offset + row_bytes<D>(first);
    int left = p.M - key - copies.row;  // keys from this row on
#pragma unroll 1
    for (int passes = p.copy_passes; passes > 0; passes -= 2) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        for_each_unit<D>([&](int unit) {
          if constexpr (with_keys) copy_async_16(to + unit, from + unit, left > 0);
          if constexpr (with_values)
            copy_async_16(to + row_bytes<D>(kStep) + unit, from + p.values_at + unit, left > 0);
        });
        left -= p.copy_rows;
        from += p.copy_advance;
        to += p.copy_shared_advance;
      }
    }
  }
}

template <int D>
__device__ void copy_queries(const Problem& p, const Shared<D>& shared, const Place& at) {
  copy_rows<D>(p.q.row<D>(at.b, at.first_row, at.item.head), p.q.stride, kWarpRows, p.N - at.first_row,
               shared_address(shared.queries()), 0, 1);
}

// The row of each partial tile's mask that belongs to the thread's query: the CTA has a thread for each.
template <int D>
__device__ void copy_masks(const Problem& p, const Shared<D>& shared, Turn turn) {
  const Step step = step_at(p, shared.tiles(), turn.step);
  if (is_full(step)) return;
  const int row = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const Half& half = step.halves[h];
    if (half.mask < 0) continue;
    const std::uint32_t* const mask = p.masks + half.mask * p.mask_size;
    copy_async_4(shared_address(&shared.mask(turn.buffer, h)), mask + row * p.mask_words + half.column / 32);
  }
}

// --- which keys a query may see ---

__device__ inline std::uint32_t low_bits(int n) {
  return n <= 0 ? 0u : n >= 32 ? ~0u : (1u << n) - 1u;
}

// Bit c of bits[h]: whether the lane's query, the warp's number lane_id(), may see key c of half h. If the
// warp may see keys of one half only, that is `only`; otherwise it is -1.
struct Allowed {
  std::uint32_t bits[2];
  bool any, all;  // of the warp
  int only;
};

template <int D>
__device__ Allowed allowed_keys(const Problem& p, const Shared<D>& shared, Turn turn) {
  Allowed allowed{{~0u, ~0u}, true, true, -1};
  const Step step = step_at(p, shared.tiles(), turn.step);
  if (is_full(step)) return allowed;
  const KeyRange range = p.row_bounds ? shared.range() : KeyRange{0, p.M};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const Half& half = step.halves[h];
    if (half.mask >= 0) allowed.bits[h] = shared.mask(turn.buffer, h);
    allowed.bits[h] &= low_bits(range.high - half.key) & ~low_bits(range.low - half.key);
  }
  const bool low = __any_sync(kWholeWarp, allowed.bits[0] != 0);
  const bool high = __any_sync(kWholeWarp, allowed.bits[1] != 0);
  allowed.any = low || high;
  allowed.all = __all_sync(kWholeWarp, (allowed.bits[0] & allowed.bits[1]) == ~0u);
  if (low != high) allowed.only = high ? 1 : 0;
  return allowed;
}

}  // namespace filigree::cuda::forward16
