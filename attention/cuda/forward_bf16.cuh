// What a CTA of the bf16 forward works on, and how it gets into shared memory: the tiles of its item, steps
// of 64 keys of them, and which of those keys each query may see.
#pragma once

#include <limits>

#include "attention/cuda/mma.cuh"
#include "attention/device_layout.h"
#include "attention/kernels.h"

namespace filigree::cuda::forward16 {

constexpr int kStep = 64, kHalf = 32;  // keys
constexpr int kWarpRows = 32;          // queries of a warp
constexpr float kSlack = 8;            // of shifts, in powers of 2, see forward_bf16.cu
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLn2 = 0.693147180559945309417f;
constexpr double kLog2E = 1.44269504088896340736;
constexpr int kNoKey = static_cast<int>(kMaxLength);  // behind every key

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
  // The list of tiles, then
  int ranges;   // [T] KeyRange, of each query; row bounds only
  int masks;    // [2, 2, T] words: of a step, a half of it, each query
  int queries;  // [T, D]
  int steps;    // one or two: keys [kStep, D], values [kStep, D]
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
  int B, N, M, H;
  int sharing, layout_heads;  // as in AttentionInput
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
  int slot_rows;                   // queries of a slot: T, or those of a CTA on Hopper
  float *segment_o, *segment_lse;  // [slots, sharing, slot_rows, D] and, in units of log 2, without D
};

struct Place {
  WorkItem item;  // its head is the sequence's
  int b;
  int first_row;  // the warp's first query
};

// The sequences that share an item vary fastest: the longest items of all of them come first.
__device__ inline Place place_of_cta(const Problem& p) {
  Place at;
  const int i = static_cast<int>(blockIdx.x);
  at.item = p.items[i / p.sharing];
  at.b = i % p.sharing + at.item.head / p.H;
  at.item.head %= p.H;
  at.first_row = at.item.tile * p.tile + warp_id() * kWarpRows;
  return at;
}

// --- shared memory ---

struct KeyRange {
  int low, high;  // keys [low, high)
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
  at.ranges = static_cast<int>(split_tiles(tile) + 1) * static_cast<int>(sizeof(Tile));
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

  __device__ Tile* tiles() const { return reinterpret_cast<Tile*>(room_); }
  // Of the thread's query.
  __device__ KeyRange& range() const {
    return reinterpret_cast<KeyRange*>(room_ + p_.shared.ranges)[threadIdx.x];
  }
  __device__ std::uint32_t& mask(int step, int half) const {
    return reinterpret_cast<std::uint32_t*>(room_ +
                                            p_.shared.masks)[((step & 1) * 2 + half) * p_.tile + threadIdx.x];
  }
  // Of the warp.
  __device__ char* queries() const { return room_ + p_.shared.queries + warp_id() * row_bytes<D>(kWarpRows); }
  __device__ std::uint32_t keys(int step) const {
    return shared_address(room_) + p_.shared.steps + (p_.deep ? step & 1 : 0) * (2 * row_bytes<D>(kStep));
  }
  __device__ std::uint32_t values(int step) const { return keys(step) + row_bytes<D>(kStep); }

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

// The keys from the first to the last that some query of several may see, and those that all may see.
struct JointRange {
  KeyRange some, all;
};

__device__ inline JointRange joint_range(const Problem& p, int b, int first_row, int rows) {
  if (!p.row_bounds) return {{0, p.M}, {0, p.M}};
  JointRange joint{{kNoKey, 0}, {0, kNoKey}};
  for (int row = lane_id(); row < min(rows, p.N - first_row); row += kWarpSize) {
    const KeyRange range = key_range(p, b, first_row + row);
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
  const JointRange range = joint_range(p, at.b, at.item.tile * p.tile, p.tile);
  const float* gate =
      p.gate ? p.gate + at.b * p.gate_batch_stride + p.gate_base[at.b * p.layout_heads + at.item.head]
             : nullptr;
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
  if (lane_id() == 0) list[n] = {kNoKey, kCutTile, 0.0f};  // beside an odd last tile of 32
  return n;
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
__device__ void copy_step(const Problem& p, const Shared<D>& shared, const Copies<D>& copies, int step) {
#pragma unroll 1
  for (int first = 0; first < kStep; first += p.copy_keys) {
    const int key = half_at(p, shared.tiles(), step * kStep + first).key;
    const char* from = copies.keys + static_cast<std::int64_t>(key) * p.k.stride;
    std::uint32_t to = shared.keys(step) + copies.offset + row_bytes<D>(first);
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

// The row of each partial tile's mask that belongs to the thread's query: the CTA has a thread for each.
template <int D>
__device__ void copy_masks(const Problem& p, const Shared<D>& shared, int number) {
  const Step step = step_at(p, shared.tiles(), number);
  if (is_full(step)) return;
  const int row = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const Half& half = step.halves[h];
    if (half.mask < 0) continue;
    const std::uint32_t* const mask = p.masks + half.mask * p.mask_size;
    copy_async_4(shared_address(&shared.mask(number, h)), mask + row * p.mask_words + half.column / 32);
  }
}

// --- which keys a query may see ---

// Bit c of bits[h]: whether the lane's query, the warp's number lane_id(), may see key c of half h.
struct Allowed {
  std::uint32_t bits[2];
  bool any, all;  // of the warp
};

template <int D>
__device__ Allowed allowed_keys(const Problem& p, const Shared<D>& shared, int number) {
  Allowed allowed{{~0u, ~0u}, true, true};
  const Step step = step_at(p, shared.tiles(), number);
  if (is_full(step)) return allowed;
  const KeyRange range = p.row_bounds ? shared.range() : KeyRange{0, p.M};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const Half& half = step.halves[h];
    if (half.mask >= 0) allowed.bits[h] = shared.mask(number, h);
    allowed.bits[h] &= low_bits(range.high - half.key) & ~low_bits(range.low - half.key);
  }
  allowed.any = __any_sync(kWholeWarp, (allowed.bits[0] | allowed.bits[1]) != 0);
  allowed.all = __all_sync(kWholeWarp, (allowed.bits[0] & allowed.bits[1]) == ~0u);
  return allowed;
}

// --- on Hopper, for what the products of wgmma.cuh take (forward_sm90.cu) ---

void launch_hopper(Context context, const Problem& p, const AttentionInput& in, const QueryVisits& visits);

}  // namespace filigree::cuda::forward16
