// What the two passes of the bf16 backward share: the problem, the rounds that a CTA goes through, and the
// pieces of their inner loops. The pass for dk and dv (backward_dkdv_bf16.cu) owns keys and streams queries,
// the pass for dq (backward_dq_bf16.cu) owns queries and streams keys; both recompute S and dP (the split
// form of FlashAttention-2's backward, Dao 2023: seven products where five would do, but no sums between
// CTAs).
//
// A CTA owns up to 128 rows of a tile, a group of 32 for each warp, or for each pair of warps where D > 64.
// Shared memory is the bottleneck of these loops: a 16 x 8 operand takes two cycles to read, and one product
// of 16 rows with it takes the tensor cores 1.6. So every operand that is read serves both 16-row halves of a
// group, and the own operands stay in registers. For D > 64 these and the sums do not fit into one warp's
// registers. Then two warps share a group: the P warp computes S and P, the dS warp computes dP, gets P
// through shared memory, and computes dS. Of the sums, dv belongs to the P warp, dk and dq to the dS warp.
//
// Streamed rows come in rounds of 64 (32 if tiles are so small), double-buffered; all warps meet once per
// round. Before it starts, a CTA lists the rounds that hold an allowed pair in shared memory.
#pragma once

#include <limits>
#include <type_traits>

#include "attention/cuda/mma.cuh"
#include "attention/device_layout.h"
#include "attention/kernels.h"

namespace filigree::cuda::backward16 {

constexpr int kGroup = 32;     // own rows of a warp or a pair of warps
constexpr int kBlock = 16;     // streamed rows that one product sums over
constexpr int kMaxOwn = 128;   // own rows of a CTA
constexpr int kMaxRound = 64;  // streamed rows of a round
constexpr float kLog2E = 1.44269504f;
// e^(S - lse) of a gate near 0 may be anything; above 2^100 it is cut, so that m e^(S - lse) stays 0 at m = 0
// and the gate's gradient finite.
constexpr float kGreatestExponent = 100;

template <int D>
inline constexpr bool kPaired = D > 64;
template <int D>
inline constexpr int kMaxThreads = (kPaired<D> ? 2 : 1) * kWarpSize* kMaxOwn / kGroup;
template <int D>
inline constexpr int kRowBytes = 4 * D + 16;  // from row to row in shared memory, see Shared::rows

// --- the problem ---

// The rows of q, k, v, o or of a gradient; row n of batch element b is number b N + n, less than 2^31.
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
  check(heads.batch() * heads.rows() <= std::numeric_limits<std::int32_t>::max(), "attention: too many rows");
  check(reinterpret_cast<std::uintptr_t>(heads.data<T>()) % 16 == 0, "attention: heads are not aligned");
  return {heads.data<T>(), static_cast<int>(heads.row_stride())};
}

// Which keys the queries of a round may see at all, and which all of them may.
struct alignas(16) RoundBounds {
  std::int32_t least_low, greatest_high;  // of the queries that may see any
  std::int32_t greatest_low, least_high;  // of all

  __device__ bool touch(int begin, int end) const { return least_low < end && begin < greatest_high; }
  __device__ bool cover(int begin, int end) const { return greatest_low <= begin && end <= least_high; }
};

// Which parts of a mask hold an allowed pair. Bit 4 s + g: streamed block s with own group g.
struct MaskParts {
  std::uint32_t of_keys;     // own keys, streamed queries
  std::uint32_t of_queries;  // own queries, streamed keys
};

struct Problem {
  HeadRows<const bfloat16> q, k, v, o_grad;
  HeadRows<bfloat16> q_grad, k_grad, v_grad;
  const float *log2_sum, *delta;  // [B, H, N]; log2 of the row's sum, +inf if it has no keys
  float* gate_grad;               // [B, gate_size]; nullptr: not wanted
  int B, N, M, H, G;
  int tile, key_tiles;
  int own;  // rows of a CTA
  int multiprocessors;
  const std::int32_t *head_pattern, *columns, *mask_id, *col_offsets, *rows, *tile_of;
  const std::int64_t* gate_base;
  const std::uint64_t* masks;
  const MaskParts* mask_parts;
  const float* gate;  // nullptr: 1
  std::int64_t gate_batch_stride, gate_size;
  const std::int32_t* row_bounds;   // [B, N, 2]; nullptr: every key
  const RoundBounds* round_bounds;  // [B, rounds of queries], beside row_bounds
  const float* slopes;              // nullptr: no ALiBi
  float scale, log2_scale;          // log2_scale = scale log2(e)

  __host__ __device__ int round_rows() const { return min(tile, kMaxRound); }
  __host__ __device__ int parts() const { return tile / own; }  // CTAs per tile
  __device__ int query_rounds() const { return (N + round_rows() - 1) / round_rows(); }
};

// What a CTA works on.
struct Place {
  WorkItem item;
  int b;
  int offset;    // in the tile, of the first own row
  int first;     // own row
  bool swapped;  // the warps' roles, see role_of_warp()
};

// One CTA per (work item, batch, part of the item's tile), the longest items first.
__device__ inline Place place_of_cta(const Problem& p, const WorkItem* items) {
  const int x = static_cast<int>(blockIdx.x);
  Place at;
  at.item = items[x / p.parts() / p.B];
  at.b = x / p.parts() % p.B;
  at.offset = x % p.parts() * p.own;
  at.first = at.item.tile * p.tile + at.offset;
  at.swapped = x / p.multiprocessors % 2 == 1;
  return at;
}

// A warp's part in its CTA.
struct Role {
  int group;
  bool computes_ds;
};

// `x` of lane 0: tells the compiler that the whole warp has the same.
__device__ inline int warp_uniform(int x) {
  return __shfl_sync(kWholeWarp, x, 0);
}

// Warps w and w + 4 share a scheduler. With four groups each scheduler gets one warp of either kind. With two
// groups the second CTA of a multiprocessor has them the other way round.
template <int D>
__device__ Role role_of_warp(const Problem& p, const Place& at) {
  const int groups = p.own / kGroup;
  if constexpr (kPaired<D>)
    return {warp_uniform(warp_id() % groups), warp_uniform((warp_id() >= groups) != at.swapped) != 0};
  else
    return {warp_uniform(warp_id()), true};
}

// The thread's number among those of its kind that load a round; as many as there are own rows. Read anew at
// each call: else all that follows from it would be computed early and kept in registers.
__device__ inline int loading_thread(const Problem& p) {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread & (p.own - 1);
}

// --- shared memory ---

// A round of streamed rows.
struct Round {
  int first;             // row
  int head;              // query head
  int tile;              // absolute
  int mask;              // kFullTile or an entry of the mask table
  int part;              // of the tile
  std::uint32_t blocks;  // 16 bits of MaskParts
  float gate;
  std::uint32_t flags;
};
constexpr std::uint32_t kGeneral = 1;  // there is more to P than e^(S - lse)
constexpr std::uint32_t kBounded = 2;  // some pairs are forbidden by row bounds or lie beyond the last key
constexpr std::uint32_t kLastOfTile = 4;

// What streamed rows come with: in the dk, dv pass per query the log2 of its sum, delta, bounds and mask; in
// the dq pass the mask's words per own query.
struct alignas(16) RoundExtras {
  union {
    struct {
      float log2_sum[kMaxRound], delta[kMaxRound];
      int2 bounds[kMaxRound];
      std::uint32_t masks[kMaxRound * kMaxOwn / 32];
    } of_queries;
    std::uint16_t masks[kMaxOwn * kMaxRound / 16];
  };
};

struct Shared {
  Place at;
  Round rounds[split_tiles(1) / 32];  // of an item: split_tiles() tiles at most
  RoundExtras extras[2];
  int2 bounds[kMaxOwn];                     // dq: of the own queries
  uint4 p[kMaxOwn / kGroup][2][kWarpSize];  // from the P warp of each group to its dS warp
  float gate_sums[2][kMaxOwn / kGroup];
  int counts[2 * kMaxOwn / kGroup];
  // As many as there is room for: two stages of a round's rows. Before the second stage is needed, the own
  // rows come there, and at the end the results. A row is one of q and one of o_grad, or one of k and one of
  // v, side by side, and 16 bytes, so that the 8 rows which a load reads at once lie in different banks.
  alignas(16) unsigned char rows[1];
};

template <int D>
int shared_bytes(const Problem& p) {
  const int stage = p.round_rows() * kRowBytes<D>, own = p.own * kRowBytes<D>;
  return static_cast<int>(offsetof(Shared, rows)) + stage + std::max(stage, own);
}

__device__ inline Shared& shared_memory() {
  extern __shared__ uint4 room[];
  return *reinterpret_cast<Shared*>(room);
}

template <int D>
__device__ std::uint32_t stage_address(const Problem& p, int stage) {
  return shared_address(shared_memory().rows) +
         static_cast<std::uint32_t>(stage * p.round_rows() * kRowBytes<D>);
}
template <int D>
__device__ std::uint32_t own_address(const Problem& p) {
  return stage_address<D>(p, 1);
}

// Copies of 4, 8 or 16 bytes; zeros if not `valid`.
template <int bytes>
__device__ inline void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from),
               "n"(bytes), "r"(valid ? bytes : 0)
               : "memory");
}

// Rows [first, first + rows) of a batch element's `n` rows of x and y, side by side; zeros from row n on.
// Shared among `threads` threads, of which the caller is number `thread`.
template <int D>
__device__ void load_rows(const HeadRows<const bfloat16>& x, const HeadRows<const bfloat16>& y, int b, int n,
                          int head, int first, int rows, std::uint32_t to, int thread, int threads) {
  constexpr int kUnits = D / 8;  // of 16 bytes
  const int rows_at_once = threads / kUnits, row = thread / kUnits, unit = thread % kUnits;
  if (row >= rows_at_once) return;
  const bfloat16* from_x = x.at(b * n + first + row, head * D + unit * 8);
  const bfloat16* from_y = y.at(b * n + first + row, head * D + unit * 8);
  const std::int64_t step_x = static_cast<std::int64_t>(rows_at_once) * x.stride,
                     step_y = static_cast<std::int64_t>(rows_at_once) * y.stride;
  to += static_cast<std::uint32_t>(row * kRowBytes<D> + unit * 16);
#pragma unroll 4
  for (int i = first + row; i < first + rows; i += rows_at_once) {
    copy_async_16(to, from_x, i < n);
    copy_async_16(to + 2 * D, from_y, i < n);
    from_x += step_x;
    from_y += step_y;
    to += static_cast<std::uint32_t>(rows_at_once * kRowBytes<D>);
  }
}

// --- the rounds of an item ---

struct Tile {
  int number;    // absolute
  int streamed;  // key or query tile
  int head;      // query head
  float gate;
};

// Bounds of queries [first, first + rows).
__device__ inline RoundBounds bounds_of(const Problem& p, int b, int first, int rows) {
  if (!p.row_bounds) return {0, p.M, 0, p.M};
  RoundBounds all{p.M, 0, 0, p.M};
  const int begin = first / p.round_rows(), end = min((first + rows) / p.round_rows(), p.query_rounds());
  for (int r = begin; r < end; ++r) {
    const RoundBounds& x = p.round_bounds[static_cast<std::int64_t>(b) * p.query_rounds() + r];
    all.least_low = min(all.least_low, x.least_low);
    all.greatest_high = max(all.greatest_high, x.greatest_high);
    all.greatest_low = max(all.greatest_low, x.greatest_low);
    all.least_high = min(all.least_high, x.least_high);
  }
  return all;
}

// Part `part` of a tile as a round; false if none of its pairs is allowed.
template <bool kStreamsKeys>
__device__ bool make_round(const Problem& p, const Place& at, const Tile& tile, int part, Round& round) {
  const int rows = p.round_rows(), first = tile.streamed * p.tile + part * rows;
  if (first >= (kStreamsKeys ? p.M : p.N)) return false;
  const int mask = p.mask_id[tile.number];
  std::uint32_t blocks = 0xffff;
  if (mask != kFullTile) {
    const MaskParts parts = p.mask_parts[mask];
    blocks = (kStreamsKeys ? parts.of_queries : parts.of_keys) >> (16 * part);
    blocks &= 0x1111u * ((1u << p.own / kGroup) - 1u) << at.offset / kGroup;
    if (blocks == 0) return false;
  }
  const int first_key = kStreamsKeys ? first : at.first, keys = kStreamsKeys ? rows : p.own;
  const int key_end = min(first_key + keys, p.M);
  const RoundBounds bounds =
      kStreamsKeys ? bounds_of(p, at.b, at.first, p.own) : bounds_of(p, at.b, first, rows);
  if (!bounds.touch(first_key, key_end)) return false;
  // Missing rows are zeros. As queries they add nothing, but as keys they have a P.
  const bool bounded = !bounds.cover(first_key, key_end) || (kStreamsKeys && first + rows > p.M);
  const bool general = bounded || mask != kFullTile || p.gate || p.slopes;
  round = {first, tile.head,       tile.number, mask,
           part,  blocks & 0xffff, tile.gate,   (general ? kGeneral : 0) | (bounded ? kBounded : 0)};
  return true;
}

// Appends each thread's rounds in the order of threads. Returns the new number of rounds.
__device__ inline int append_rounds(const Round (&rounds)[2], const bool (&kept)[2], int n) {
  Shared& shared = shared_memory();
  const unsigned first = __ballot_sync(kWholeWarp, kept[0]), second = __ballot_sync(kWholeWarp, kept[1]);
  const unsigned before_lane = (1u << lane_id()) - 1u;
  if (lane_id() == 0) shared.counts[warp_id()] = __popc(first) + __popc(second);
  __syncthreads();
  int place = n + __popc(first & before_lane) + __popc(second & before_lane);
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarpSize; ++w) {
    if (w < warp_id()) place += shared.counts[w];
    n += shared.counts[w];
  }
  if (kept[0]) shared.rounds[place++] = rounds[0];
  if (kept[1]) shared.rounds[place] = rounds[1];
  __syncthreads();
  return n;
}

// Lists the rounds of tiles tile_of(begin) to tile_of(end - 1) and returns their number.
template <bool kStreamsKeys, class TileOf>
__device__ int list_rounds(const Problem& p, const Place& at, TileOf&& tile_of) {
  int n = 0;
  for (int base = at.item.begin; base < at.item.end; base += static_cast<int>(blockDim.x)) {
    Round rounds[2];
    bool kept[2] = {};
    const int i = base + static_cast<int>(threadIdx.x);
    if (i < at.item.end) {
      Tile tile = tile_of(i);
      tile.gate = p.gate ? p.gate[at.b * p.gate_batch_stride + p.gate_base[tile.head] + tile.number] : 1.0f;
      const bool wanted = tile.gate != 0 || (kStreamsKeys && p.gate_grad);
#pragma unroll
      for (int part = 0; part < 2; ++part)
        kept[part] = wanted && part * p.round_rows() < p.tile &&
                     make_round<kStreamsKeys>(p, at, tile, part, rounds[part]);
      if (kept[1])
        rounds[1].flags |= kLastOfTile;
      else if (kept[0])
        rounds[0].flags |= kLastOfTile;
      else if (kStreamsKeys && p.gate_grad)
        p.gate_grad[at.b * p.gate_size + p.gate_base[tile.head] + tile.number] = 0;
    }
    n = append_rounds(rounds, kept, n);
  }
  return warp_uniform(n);
}

// --- products; the matrices of a group are [2 halves of 16 rows][..], see mma.cuh ---

template <int D>
using OwnRows = std::uint32_t[2][D / 16][4];  // A
template <int D>
using Sums = float[2][D / 8][4];  // C
template <int blocks>
using Scores = float[2][2 * blocks][4];  // C, 32 own rows x 16 streamed ones per block
template <int blocks>
using RoundedScores = std::uint32_t[2][blocks][4];  // A

// Where a lane reads streamed rows for scores (down) and for sums (across), in bytes from their first.
template <int D>
__device__ std::uint32_t lane_down() {
  return static_cast<std::uint32_t>(2 * block_offset_down(kRowBytes<D> / 2));
}
template <int D>
__device__ std::uint32_t lane_across() {
  return static_cast<std::uint32_t>(2 * block_offset_across(kRowBytes<D> / 2));
}

template <int D>
__device__ void load_own(OwnRows<D>& own, std::uint32_t rows) {
  rows += lane_across<D>();
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int d = 0; d < D / 16; ++d)
      load_matrices(own[half][d], rows + static_cast<std::uint32_t>(half * 16 * kRowBytes<D> + d * 32));
}

// scores += own x streamed^T; `streamed` is lane_down() beyond their address.
template <int D, int blocks>
__device__ void multiply_own(const OwnRows<D>& own, std::uint32_t streamed, Scores<blocks>& scores) {
#pragma unroll
  for (int d = 0; d < D / 16; ++d)
#pragma unroll
    for (int s = 0; s < blocks; ++s) {
      std::uint32_t b[4];
      load_matrices(b, streamed + static_cast<std::uint32_t>(s * kBlock * kRowBytes<D> + d * 32));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        multiply_add(scores[half][2 * s], own[half][d], b[0], b[1]);
        multiply_add(scores[half][2 * s + 1], own[half][d], b[2], b[3]);
      }
    }
}

// sums += weights x streamed; `streamed` is lane_across() beyond their address.
template <int D, int blocks>
__device__ void add_weighted(const RoundedScores<blocks>& weights, std::uint32_t streamed, Sums<D>& sums) {
#pragma unroll
  for (int s = 0; s < blocks; ++s)
#pragma unroll
    for (int d = 0; d < D / 16; ++d) {
      std::uint32_t b[4];
      load_matrices_transposed(b, streamed + static_cast<std::uint32_t>(s * kBlock * kRowBytes<D> + d * 32));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        multiply_add(sums[half][2 * d], weights[half][s], b[0], b[1]);
        multiply_add(sums[half][2 * d + 1], weights[half][s], b[2], b[3]);
      }
    }
}

template <int D>
__device__ void zero(Sums<D>& sums) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[half][d][i] = 0;
}

template <int blocks>
__device__ void round_scores(const Scores<blocks>& scores, RoundedScores<blocks>& rounded) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int s = 0; s < blocks; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* c = scores[half][2 * s + i / 2] + i % 2 * 2;
        rounded[half][s][i] = pack_bf16(c[0], c[1]);
      }
}

template <int blocks>
__device__ void widen_scores(const RoundedScores<blocks>& rounded, Scores<blocks>& scores) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int s = 0; s < blocks; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float* c = scores[half][2 * s + i / 2] + i % 2 * 2;
        c[0] = __uint_as_float(rounded[half][s][i] << 16);
        c[1] = __uint_as_float(rounded[half][s][i] & 0xffff0000u);
      }
}

// --- from scores to P ---

constexpr float kInfinity = std::numeric_limits<float>::infinity();

__device__ inline std::uint32_t low_bits(int n) {
  return n <= 0 ? 0u : n >= 32 ? ~0u : (1u << n) - 1u;
}
// Bit c: whether `bounds` allow key `first` + c.
__device__ inline std::uint32_t keys_within(int2 bounds, int first) {
  return low_bits(bounds.y - first) & ~low_bits(bounds.x - first);
}

template <int blocks>
__device__ void raise(Scores<blocks>& exponents) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int j = 0; j < 2 * blocks; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) exponents[half][j][i] = fast_exp2(exponents[half][j][i]);
}
// The same, cut and times the gate; NaN stays NaN.
template <int blocks>
__device__ void raise_cut(float gate, Scores<blocks>& exponents) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int j = 0; j < 2 * blocks; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float x = exponents[half][j][i];
        exponents[half][j][i] = gate * fast_exp2(x > kGreatestExponent ? kGreatestExponent : x);
      }
}

// --- the blocks of a round ---

// Where a warp is in its round: addresses in shared memory, and the number of the block.
struct Cursor {
  std::uint32_t down, across;  // of the lane in the block's rows, for scores and for sums
  int block;
};

// Calls f with the first of each `blocks` blocks of the round's `rows` rows that hold allowed pairs, by
// `wanted`, the MaskParts of the group.
template <int D, bool kGeneralRound, int blocks, class F>
__device__ void for_each_block(std::uint32_t stage, int rows, std::uint32_t wanted, F&& f) {
  Cursor at{stage + lane_down<D>(), stage + lane_across<D>(), 0};
#pragma unroll 1
  do {
    if (!kGeneralRound || (wanted >> (4 * at.block) & (blocks == 1 ? 0x1u : 0x11u))) f(at);
    at.down += blocks * kBlock * kRowBytes<D>;
    at.across += blocks * kBlock * kRowBytes<D>;
    at.block += blocks;
  } while (at.block * kBlock < rows);
}

// --- P on its way from one warp of a pair to the other; a buffer per group, guarded by two barriers ---

__device__ inline void wait_at(int barrier) {
  asm volatile("bar.sync %0, 64;" ::"r"(barrier) : "memory");
}
__device__ inline void arrive_at(int barrier) {
  asm volatile("bar.arrive %0, 64;" ::"r"(barrier) : "memory");
}
// Barrier 0 is __syncthreads().
__device__ inline int buffer_full(int group) {
  return 1 + 2 * group;
}
__device__ inline int buffer_free(int group) {
  return 2 + 2 * group;
}

__device__ inline void send(int group, const RoundedScores<1>& p) {
  wait_at(buffer_free(group));
#pragma unroll
  for (int half = 0; half < 2; ++half)
    shared_memory().p[group][half][lane_id()] = {p[half][0][0], p[half][0][1], p[half][0][2], p[half][0][3]};
  arrive_at(buffer_full(group));
}

__device__ inline void receive(int group, RoundedScores<1>& p) {
  wait_at(buffer_full(group));
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint4 x = shared_memory().p[group][half][lane_id()];
    p[half][0][0] = x.x;
    p[half][0][1] = x.y;
    p[half][0][2] = x.z;
    p[half][0][3] = x.w;
  }
  arrive_at(buffer_free(group));
}

// --- results ---

// The room of a segment's f32 sums: [slots, B, kinds, tile, D]; from the CTA's own row `row` on.
struct Segments {
  float* data;
  int kinds;  // of results per slot

  __device__ float* at(const Problem& p, const Place& place, int kind, int row, int D) const {
    const std::int64_t tile = (static_cast<std::int64_t>(place.item.slot) * p.B + place.b) * kinds + kind;
    return data + (tile * p.tile + place.offset + row) * D;
  }
};

template <int D>
__device__ void write_segment(const Sums<D>& sums, float factor, float* to) {
  to += lane_id() / 4 * D + lane_id() % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        *reinterpret_cast<float2*>(to + (half * 16 + i * 8) * D + d * 8) = {
            factor * sums[half][d][2 * i], factor * sums[half][d][2 * i + 1]};
}

// Rows [0, rows) of a group's sums to `to`, rounded; by way of the warp's `room` in shared memory, so that
// whole units of 16 bytes are written.
template <int D>
__device__ void write_rows(const Sums<D>& sums, float factor, unsigned char* room, bfloat16* to,
                           std::int64_t stride, int rows) {
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        unsigned char* place =
            room + (half * 16 + i * 8 + lane_id() / 4) * kRowBytes<D> + d * 16 + lane_id() % 4 * 4;
        *reinterpret_cast<std::uint32_t*>(place) =
            pack_bf16(factor * sums[half][d][2 * i], factor * sums[half][d][2 * i + 1]);
      }
  __syncwarp();
  constexpr int kUnits = D / 8;
  for (int unit = lane_id(); unit < min(rows, kGroup) * kUnits; unit += kWarpSize)
    *reinterpret_cast<uint4*>(to + unit / kUnits * stride + unit % kUnits * 8) =
        *reinterpret_cast<const uint4*>(room + unit / kUnits * kRowBytes<D> + unit % kUnits * 16);
}

// One of a group's results to where it belongs. All warps must be done with the stages.
template <int D>
__device__ void write_result(const Problem& p, const Place& at, int group, const Sums<D>& sums, float factor,
                             const HeadRows<bfloat16>& gradient, const Segments& segments, int kind,
                             int end) {
  const int row = group * kGroup;
  if (at.item.slot >= 0) return write_segment<D>(sums, factor, segments.at(p, at, kind, row, D));
  unsigned char* room = shared_memory().rows + row * kRowBytes<D> + kind * 2 * D;
  write_rows<D>(sums, factor, room, gradient.at(at.b * end + at.first + row, at.item.head * D),
                gradient.stride, end - at.first - row);
}

// --- the passes ---

void key_gradients(Context context, const Problem& p, int D, const WorkList& work);
void query_gradients(Context context, const Problem& p, int D, const WorkList& work);

// Sums the segments' results in order, into rows below `end`.
void add_segments(Context context, const Problem& p, int D, const WorkList& work, const Segments& segments,
                  int kind, const HeadRows<bfloat16>& gradient, int end);

inline Tensor segment_room(Context context, const Problem& p, int D, const WorkList& work, int kinds) {
  return work.n_slots == 0 ? Tensor() : workspace<float>(context, work.n_slots * p.B * kinds * p.tile * D);
}

// Calls f with the head dim as a type.
template <class F>
void with_head_dim(int D, F&& f) {
  switch (D) {
    case 32:
      return f(std::integral_constant<int, 32>());
    case 48:
      return f(std::integral_constant<int, 48>());
    case 64:
      return f(std::integral_constant<int, 64>());
    case 80:
      return f(std::integral_constant<int, 80>());
    case 96:
      return f(std::integral_constant<int, 96>());
    case 112:
      return f(std::integral_constant<int, 112>());
    case 128:
      return f(std::integral_constant<int, 128>());
  }
  check(false, "attention: the bf16 kernels were given another head dim");
}

template <int D, class Kernel>
void launch_pass(Context context, const Problem& p, Kernel kernel, const WorkList& work,
                 const Segments& segments) {
  const std::int64_t ctas = work.n_items * p.B * p.parts();
  if (ctas == 0) return;
  check(ctas <= std::numeric_limits<std::int32_t>::max(), "attention: too many work items for a launch");
  const int bytes = shared_bytes<D>(p);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
  const int threads = (kPaired<D> ? 2 : 1) * kWarpSize * p.own / kGroup;
  kernel<<<static_cast<unsigned>(ctas), static_cast<unsigned>(threads), static_cast<std::size_t>(bytes),
           stream(context)>>>(p, static_cast<const WorkItem*>(work.items.raw_data()), segments);
  check_launch();
}

}  // namespace filigree::cuda::backward16
