// What the two passes of the bf16 backward share: the problem, the tiles that a CTA visits, and the pieces of
// their inner loops. The pass for dk and dv (backward_dkdv_bf16.cu) owns keys and streams queries, the pass
// for dq (backward_dq_bf16.cu) owns queries and streams keys; both recompute S and dP (the split form of
// FlashAttention-2's backward, Dao 2023: seven products where five would do, but no sums between CTAs).
//
// A CTA owns the T rows of a tile and streams others tile by tile, double-buffered; all its warps meet once
// per tile. Before it starts, it lists the tiles to visit, those that hold an allowed pair, in shared memory.
// How its warps go about a tile is in backward_bf16_warp.cuh, and for Hopper in backward_sm90.cuh.
#pragma once

#include <limits>

#include "attention/cuda/mma.cuh"
#include "attention/cuda/tensor_map.h"
#include "attention/device_layout.h"
#include "attention/kernels.h"

namespace filigree::cuda::backward16 {

constexpr int kGroup = 32;  // own rows of a warp or a pair of warps
constexpr int kBlock = 16;  // streamed rows that one product sums over
constexpr int kLeastTile = 32, kGreatestTile = 128;
constexpr int kMaxGroups = kGreatestTile / kGroup;
constexpr float kLog2E = 1.44269504f;
// e^(S - lse) of a gate near 0 may be anything; above 2^100 it is cut, so that m e^(S - lse) stays 0 at m = 0
// and the gate's gradient finite.
constexpr float kGreatestExponent = 100;

// --- the problem ---

// The rows of q, k, v, o_grad or of a gradient; row n of batch element b is number b N + n, less than 2^31.
template <class T>
struct HeadRows {
  T* data;
  int stride;  // elements from row to row

  __device__ T* at(int row, int element) const {
    return data + static_cast<std::int64_t>(row) * stride + element;
  }
};

template <class T>
HeadRows<T> head_rows(const Heads& heads) {
  check(heads.batch() * heads.rows() <= std::numeric_limits<std::int32_t>::max() - kGreatestTile,
        "attention: too many rows");
  check(reinterpret_cast<std::uintptr_t>(heads.data<T>()) % 16 == 0, "attention: heads are not aligned");
  return {heads.data<T>(), static_cast<int>(heads.row_stride())};
}

// Which keys the queries of a tile may see at all, and which all of them may.
struct alignas(16) TileBounds {
  std::int32_t least_low, greatest_high;  // of the queries that may see any
  std::int32_t greatest_low, least_high;  // of all

  __device__ bool touch(int begin, int end) const { return least_low < end && begin < greatest_high; }
  __device__ bool cover(int begin, int end) const { return greatest_low <= begin && end <= least_high; }
};

// Which parts of a mask hold an allowed pair. Bit 4 b + g: streamed block b with own group g.
struct MaskParts {
  std::uint32_t of_keys;     // own keys, streamed queries
  std::uint32_t of_queries;  // own queries, streamed keys
};

struct Problem {
  HeadRows<const bfloat16> q, k, v, o_grad;
  HeadRows<bfloat16> q_grad, k_grad, v_grad;
  const float *log2_sum, *delta;  // [B, H, constant_rows]; log2 of the row's sum, +inf if it has no keys
  float* gate_grad;               // [sharing, gate_size]; nullptr: not wanted
  int B, N, M, H, G;
  int constant_rows;          // N or, with missing rows that have no keys, more
  int sharing, layout_heads;  // as in AttentionInput
  int tile, query_tiles, key_tiles;
  int multiprocessors;
  const std::int32_t *head_pattern, *row_offsets, *columns, *mask_id, *col_offsets, *rows, *tile_of;
  const std::int64_t* gate_base;
  const std::uint64_t* masks;
  const MaskParts* mask_parts;
  const float* gate;                          // nullptr: 1
  std::int64_t gate_batch_stride, gate_size;  // gate_size: 0 where each sequence has its own layout
  const std::int32_t* row_bounds;             // [B, N, 2]; nullptr: every key
  const TileBounds* tile_bounds;              // [B, query_tiles], beside row_bounds
  const float* slopes;                        // nullptr: no ALiBi
  float scale, log2_scale;                    // log2_scale = scale log2(e)

  __device__ int layout_head(int b, int head) const { return b * layout_heads + head; }
  __device__ std::int64_t constants_of(int b, int head) const {
    return (static_cast<std::int64_t>(b) * H + head) * constant_rows;
  }
  __device__ int mask_words() const { return tile == 128 ? 2 : 1; }  // 64-bit words per row
};

// --- shared memory ---

// What a CTA works on.
struct Place {
  WorkItem item;  // its head is the sequence's
  int b;
  int first;     // own row
  bool swapped;  // the warps' roles, see computes_ds()
};

// A tile to visit.
struct Visit {
  int number;           // absolute
  int first;            // streamed row
  int head;             // query head
  int mask;             // kFullTile or an entry of the mask table
  std::uint32_t parts;  // which blocks hold allowed pairs, as in MaskParts
  float gate;
  std::uint32_t flags;
};
constexpr std::uint32_t kGeneral = 1;  // there is more to P than e^(S - lse)
constexpr std::uint32_t kBounded = 2;  // some pairs are forbidden by row bounds or lie beyond the last key

// What streamed queries come with in the dk, dv pass; of these, streamed keys need only the masks.
struct alignas(16) Extras {
  float log2_sum[kGreatestTile], delta[kGreatestTile];
  int2 bounds[kGreatestTile];
  std::uint64_t masks[kGreatestTile * 2];  // a tile's mask, row by row
};

struct Shared {
  Place at;
  float gate_sums[2][2 * kMaxGroups];
  int counts[2 * kMaxGroups];
  Visit visits[split_tiles(kLeastTile)];  // an item has no more
  // The Hopper kernels have their own order from here on.
  Extras extras[2];
  int2 bounds[kGreatestTile];            // dq: of the own queries
  uint4 p[kMaxGroups][2][2][kWarpSize];  // from the P warp of each group to its dS warp, two blocks in turns
  // As many as there is room for: two stages of T rows, the second of which has the own rows before they are
  // in registers; at the end the results. A row is one of q and one of o_grad, or one of k and one of v, side
  // by side, and 16 bytes, so that the 8 rows which a load reads at once lie in different banks.
  alignas(16) unsigned char rows[1];
};

__device__ inline Shared& shared_memory() {
  extern __shared__ uint4 room[];
  return *reinterpret_cast<Shared*>(room);
}

// Copies of 4, 8 or 16 bytes; zeros if not `valid`.
template <int bytes>
__device__ inline void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from),
               "n"(bytes), "r"(valid ? bytes : 0)
               : "memory");
}

// What belongs to query i of a visit's tile, into an Extras or its like: in the dk, dv pass the streamed
// queries' constants, in both passes the row of a partial tile's mask.
template <class Target>
__device__ void load_query_extras(const Problem& p, const Visit& visit, int i, Target&& extras) {
  const int b = shared_memory().at.b;
  const bool valid = visit.first + i < p.N;
  const std::int64_t row = p.constants_of(b, visit.head) + visit.first + i;
  copy_async<4>(&extras.log2_sum[i], p.log2_sum + row, valid);
  copy_async<4>(&extras.delta[i], p.delta + row, valid);
  if (visit.flags & kBounded)
    copy_async<8>(&extras.bounds[i],
                  p.row_bounds + 2 * (static_cast<std::int64_t>(b) * p.N + visit.first + i), valid);
}
template <class Target>
__device__ void load_mask_row(const Problem& p, const Visit& visit, int i, Target&& extras) {
  if (visit.mask == kFullTile) return;
  const std::uint64_t* mask = p.masks + (static_cast<std::int64_t>(visit.mask) * p.tile + i) * p.mask_words();
  if (p.mask_words() == 2)
    copy_async<16>(&extras.masks[2 * i], mask, true);
  else
    copy_async<8>(&extras.masks[i], mask, true);
}

// --- places and roles ---

// One CTA per (work item, sequence that shares it), the longest items first. `heads`: of a sequence, query
// heads or kv heads as the items have them.
__device__ inline void find_place(const Problem& p, const WorkItem* items, int heads) {
  if (threadIdx.x == 0) {
    const int x = static_cast<int>(blockIdx.x);
    WorkItem item = items[x / p.sharing];
    const int b = x % p.sharing + item.head / heads;
    item.head %= heads;
    shared_memory().at = {item, b, item.tile * p.tile, x / p.multiprocessors % 2 == 1};
  }
  __syncthreads();
}

// --- the visits of an item ---

struct Tile {
  int number;    // absolute
  int streamed;  // key or query tile
  int head;      // query head
};

// Where the own key tile's column of a query head is among col_offsets.
__device__ inline std::int64_t column_of(const Problem& p, const Place& at, int head) {
  return static_cast<std::int64_t>(p.head_pattern[p.layout_head(at.b, head)]) * (p.key_tiles + 1) +
         at.item.tile;
}

// Entry i of an item of key_work: the columns of the group's heads lie behind each other.
__device__ inline Tile tile_of_column(const Problem& p, const Place& at, int i) {
  int head = at.item.head * (p.H / p.G);
  for (;; ++head) {
    const std::int32_t* offsets = p.col_offsets + column_of(p, at, head);
    const int begin = offsets[0], entries = offsets[1] - begin;
    if (i < entries) return {p.tile_of[begin + i], p.rows[begin + i], head};
    i -= entries;
  }
}

// Whether the tile holds an allowed pair; then it becomes a visit.
template <bool kStreamsKeys>
__device__ bool make_visit(const Problem& p, const Place& at, const Tile& tile, float gate, Visit& visit) {
  const int first = tile.streamed * p.tile, mask = p.mask_id[tile.number];
  std::uint32_t parts = ~0u;
  if (mask != kFullTile) parts = kStreamsKeys ? p.mask_parts[mask].of_queries : p.mask_parts[mask].of_keys;
  if (parts == 0) return false;
  const int first_key = kStreamsKeys ? first : at.first, keys_end = min(first_key + p.tile, p.M);
  TileBounds bounds{0, p.M, 0, p.M};
  if (p.row_bounds)
    bounds = p.tile_bounds[static_cast<std::int64_t>(at.b) * p.query_tiles +
                           (kStreamsKeys ? at.item.tile : tile.streamed)];
  if (!bounds.touch(first_key, keys_end)) return false;
  // Missing rows are zeros. As queries they add nothing, but as keys they have a P.
  const bool bounded = !bounds.cover(first_key, keys_end) || (kStreamsKeys && first + p.tile > p.M);
  const bool general = bounded || mask != kFullTile || p.gate || p.slopes;
  visit = {
      tile.number, first, tile.head, mask, parts, gate, (general ? kGeneral : 0) | (bounded ? kBounded : 0)};
  return true;
}

// Whether tile `i` of the item is to be visited. Where it is not, its gate's gradient is 0.
template <bool kStreamsKeys>
__device__ bool consider_visit(const Problem& p, const Place& at, int i, Visit& visit) {
  const Tile tile = kStreamsKeys ? Tile{i, p.columns[i], at.item.head} : tile_of_column(p, at, i);
  const std::int64_t place = p.gate_base[p.layout_head(at.b, tile.head)] + tile.number;
  const float gate = p.gate ? p.gate[at.b * p.gate_batch_stride + place] : 1.0f;
  const bool wants_gate = kStreamsKeys && p.gate_grad;
  const bool kept = (gate != 0 || wants_gate) && make_visit<kStreamsKeys>(p, at, tile, gate, visit);
  if (wants_gate && !kept) p.gate_grad[at.b * p.gate_size + place] = 0;
  return kept;
}

// Appends each thread's visit in the order of threads. Returns the new number of visits.
__device__ inline int append_visits(const Visit& visit, bool kept, int n) {
  Shared& shared = shared_memory();
  const unsigned of_warp = __ballot_sync(kWholeWarp, kept);
  if (lane_id() == 0) shared.counts[warp_id()] = __popc(of_warp);
  __syncthreads();
  int place = n + __popc(of_warp & ((1u << lane_id()) - 1u));
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarpSize; ++w) {
    if (w < warp_id()) place += shared.counts[w];
    n += shared.counts[w];
  }
  if (kept) shared.visits[place] = visit;
  __syncthreads();
  return n;
}

// Lists what to visit of the item's tiles and returns the number of visits.
template <bool kStreamsKeys>
__device__ int list_visits(const Problem& p, const Place& at) {
  int n = 0;
  for (int base = at.item.begin; base < at.item.end; base += static_cast<int>(blockDim.x)) {
    Visit visit;
    const int i = base + static_cast<int>(threadIdx.x);
    const bool kept = i < at.item.end && consider_visit<kStreamsKeys>(p, at, i, visit);
    n = append_visits(visit, kept, n);
  }
  return warp_uniform(n);
}

// --- from scores to P, where there is more to it than e^(S - lse) ---

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Bit c: whether `bounds` allow key `first` + c.
__device__ inline std::uint32_t keys_within(int2 bounds, int first) {
  return low_bits(bounds.y - first) & ~low_bits(bounds.x - first);
}

// --- results ---

// The room of segments' f32 sums: [slots, sharing, kinds, tile, D].
struct Segments {
  float* data;
  int kinds;  // of results per slot

  __device__ float* at(const Problem& p, const Place& place, int kind, int row, int D) const {
    const std::int64_t room = static_cast<std::int64_t>(place.item.slot) * p.sharing + place.b % p.sharing;
    const std::int64_t tile = room * kinds + kind;
    return data + (tile * p.tile + row) * D;
  }
};

// --- the passes ---

void key_gradients(Context context, const Problem& p, int D, const WorkList& work);
void query_gradients(Context context, const Problem& p, int D, const WorkList& work);
// With the products of wgmma.cuh, see backward_sm90.cuh.
namespace hopper {
struct Maps {  // of the tensors that are copied, T rows at a time
  CUtensorMap q, k, v, o_grad;
};
void key_gradients(Context context, const Problem& p, const Maps& maps, int D, const WorkList& work);
void query_gradients(Context context, const Problem& p, const Maps& maps, int D, const WorkList& work);
// Both, for tiles of 128 and maps of 64 rows; p.constant_rows is a multiple of 128. `keeps_rows`: those that
// the layout's work cuts are not cut. `tickets`: two, 0 at first.
void ring_gradients(Context context, const Problem& p, const Maps& maps, int D, const DeviceLayout& layout,
                    bool keeps_rows, int* tickets);
}  // namespace hopper

// Sums the segments' results in order, into rows below `end`. `heads`: of a sequence in `gradient`.
void add_segments(Context context, const Problem& p, int D, const WorkList& work, const Segments& segments,
                  int kind, const HeadRows<bfloat16>& gradient, int heads, int end);

inline Tensor segment_room(Context context, const Problem& p, int D, const WorkList& work, int kinds) {
  return work.n_slots == 0 ? Tensor()
                           : workspace<float>(context, work.n_slots * p.sharing * kinds * p.tile * D);
}

}  // namespace filigree::cuda::backward16
