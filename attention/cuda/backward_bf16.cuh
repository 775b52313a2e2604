// What the two passes of the bf16 backward share: the problem, the tiles that a CTA visits, and the pieces of
// their inner loops. The pass for dk and dv (backward_dkdv_bf16.cu) owns keys and streams queries, the pass
// for dq (backward_dq_bf16.cu) owns queries and streams keys; both recompute S and dP (the split form of
// FlashAttention-2's backward, Dao 2023: seven products where five would do, but no sums between CTAs).
//
// A CTA owns the T rows of a tile, a group of 32 for each warp, or for each pair of warps where D > 64.
// Shared memory would be the bottleneck of these loops: a 16 x 8 operand takes two cycles to read, and one
// product of 16 rows with it takes the tensor cores 1.6. So every operand that is read serves both 16-row
// halves of a group, and the own operands stay in registers. For D > 64 these and the sums do not fit into
// one warp's registers. Then two warps share a group: the P warp computes S and P, the dS warp computes dP,
// gets P through shared memory, and computes dS. Of the sums, dv belongs to the P warp, dk and dq to the dS
// warp.
//
// Streamed tiles are double-buffered; all warps meet once per tile. Before it starts, a CTA lists the tiles
// to visit, those that hold an allowed pair, in shared memory.
#pragma once

#include <limits>
#include <type_traits>

#include "attention/cuda/mma.cuh"
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

template <int D>
inline constexpr bool kPaired = D > 64;
template <int D>
inline constexpr int kMaxThreads = (kPaired<D> ? 2 : 1) * kWarpSize* kMaxGroups;
template <int D>
inline constexpr int kResident = D <= 32      ? 3
                                 : kPaired<D> ? 1
                                              : 2;  // CTAs of kMaxThreads, by their registers
template <int D>
inline constexpr int kRowBytes = 4 * D + 16;  // from row to row in shared memory, see Shared::rows
template <int D>
inline constexpr int kBlockBytes = kBlock* kRowBytes<D>;

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
  const float *log2_sum, *delta;  // [B, H, N]; log2 of the row's sum, +inf if it has no keys
  float* gate_grad;               // [sharing, gate_size]; nullptr: not wanted
  int B, N, M, H, G;
  int sharing, layout_heads;  // as in AttentionInput
  int tile, query_tiles, key_tiles;
  int multiprocessors;
  const std::int32_t *head_pattern, *columns, *mask_id, *col_offsets, *rows, *tile_of;
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
  Visit visits[split_tiles(kLeastTile)];  // an item has no more
  Extras extras[2];
  int2 bounds[kGreatestTile];         // dq: of the own queries
  uint4 p[kMaxGroups][2][kWarpSize];  // from the P warp of each group to its dS warp
  float gate_sums[2][kMaxGroups];
  int counts[2 * kMaxGroups];
  // As many as there is room for: two stages of T rows, the second of which has the own rows before they are
  // in registers; at the end the results. A row is one of q and one of o_grad, or one of k and one of v, side
  // by side, and 16 bytes, so that the 8 rows which a load reads at once lie in different banks.
  alignas(16) unsigned char rows[1];
};

template <int D>
int shared_bytes(int tile) {
  return static_cast<int>(offsetof(Shared, rows)) + 2 * tile * kRowBytes<D>;
}

__device__ inline Shared& shared_memory() {
  extern __shared__ uint4 room[];
  return *reinterpret_cast<Shared*>(room);
}

template <int D>
__device__ std::uint32_t stage_address(const Problem& p, int stage) {
  return shared_address(shared_memory().rows) + static_cast<std::uint32_t>(stage * p.tile * kRowBytes<D>);
}

// Copies of 4, 8 or 16 bytes; zeros if not `valid`.
template <int bytes>
__device__ inline void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from),
               "n"(bytes), "r"(valid ? bytes : 0)
               : "memory");
}

// A tile's rows of x and y from row `first` of a batch element on, which has `n`, side by side; zeros from
// row n on. Shared among T threads, of which the caller is number `thread`.
template <int D>
__device__ void load_rows(const HeadRows<const bfloat16>& x, const HeadRows<const bfloat16>& y, int b, int n,
                          int head, int first, int tile, std::uint32_t to, int thread) {
  constexpr int kUnits = D / 8;  // of 16 bytes
  const int rows_at_once = tile / kUnits, row = thread / kUnits, unit = thread % kUnits;
  if (row >= rows_at_once) return;
  const bfloat16* from_x = x.at(b * n + first + row, head * D + unit * 8);
  const bfloat16* from_y = y.at(b * n + first + row, head * D + unit * 8);
  const std::int64_t step_x = static_cast<std::int64_t>(rows_at_once) * x.stride,
                     step_y = static_cast<std::int64_t>(rows_at_once) * y.stride;
  to += static_cast<std::uint32_t>(row * kRowBytes<D> + unit * 16);
#pragma unroll 4
  for (int i = first + row; i < first + tile; i += rows_at_once) {
    copy_async_16(to, from_x, i < n);
    copy_async_16(to + 2 * D, from_y, i < n);
    from_x += step_x;
    from_y += step_y;
    to += static_cast<std::uint32_t>(rows_at_once * kRowBytes<D>);
  }
}

// The thread's number among the T that load: those of all warps, or of the dS warps. Read anew at each call:
// else all that follows from it would be computed early and kept in registers.
__device__ inline int loading_thread(const Problem& p) {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread & (p.tile - 1);
}

// For all threads of the CTA, whatever their warps' roles.
__device__ inline void meet() {
  asm volatile("bar.sync 0;" ::: "memory");
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

// `x` of lane 0: tells the compiler that the whole warp has the same.
__device__ inline int warp_uniform(int x) {
  return __shfl_sync(kWholeWarp, x, 0);
}

__device__ inline int group_of_warp(const Problem& p) {
  return warp_uniform(warp_id() & (p.tile / kGroup - 1));
}

// Whether the warp is the dS warp of its pair. Warps w and w + 4 share a scheduler: with four groups each
// scheduler gets one warp of either kind. With two groups the second CTA of a multiprocessor has them the
// other way round.
__device__ inline bool computes_ds(const Problem& p) {
  return warp_uniform((warp_id() >= p.tile / kGroup) != shared_memory().at.swapped) != 0;
}

// --- the visits of an item ---

struct Tile {
  int number;    // absolute
  int streamed;  // key or query tile
  int head;      // query head
};

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

// Lists what to visit of tiles tile_of(begin) to tile_of(end - 1) and returns the number of visits.
template <bool kStreamsKeys, class TileOf>
__device__ int list_visits(const Problem& p, const Place& at, TileOf&& tile_of) {
  int n = 0;
  for (int base = at.item.begin; base < at.item.end; base += static_cast<int>(blockDim.x)) {
    Visit visit;
    bool kept = false;
    const int i = base + static_cast<int>(threadIdx.x);
    if (i < at.item.end) {
      const Tile tile = tile_of(i);
      const std::int64_t place = p.gate_base[p.layout_head(at.b, tile.head)] + tile.number;
      const float gate = p.gate ? p.gate[at.b * p.gate_batch_stride + place] : 1.0f;
      const bool wants_gate = kStreamsKeys && p.gate_grad;
      kept = (gate != 0 || wants_gate) && make_visit<kStreamsKeys>(p, at, tile, gate, visit);
      if (wants_gate && !kept) p.gate_grad[at.b * p.gate_size + place] = 0;
    }
    n = append_visits(visit, kept, n);
  }
  return warp_uniform(n);
}

// --- products; the matrices of a group are [2 halves of 16 rows][..], see mma.cuh ---

template <int D>
using OwnRows = std::uint32_t[2][D / 16][4];  // A
template <int D>
using Sums = float[2][D / 8][4];            // C
using Scores = float[2][2][4];              // C, 32 own rows x 16 streamed ones
using RoundedScores = std::uint32_t[2][4];  // A

template <int D>
__device__ void load_own(OwnRows<D>& own, std::uint32_t rows) {
  rows += static_cast<std::uint32_t>(2 * block_offset_across(kRowBytes<D> / 2));
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int d = 0; d < D / 16; ++d)
      load_matrices(own[half][d], rows + static_cast<std::uint32_t>(half * kBlockBytes<D> + d * 32));
}

template <int D>
__device__ void clear(Sums<D>& sums) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[half][d][i] = 0;
}

// scores = own x streamed^T, of one block or of more that follow each other. The operand of a step is read
// while the one before is in use.
template <int D, int blocks>
__device__ void multiply_own(const OwnRows<D>& own, std::uint32_t streamed, Scores (&scores)[blocks]) {
  constexpr int kSteps = blocks * D / 16;
  const auto load = [&](int step, std::uint32_t(&b)[4]) {
    load_matrices(b,
                  streamed + static_cast<std::uint32_t>(step % blocks * kBlockBytes<D> + step / blocks * 32));
  };
  std::uint32_t b[2][4];
  load(0, b[0]);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    if (step + 1 < kSteps) load(step + 1, b[(step + 1) % 2]);
    const std::uint32_t(&now)[4] = b[step % 2];
    Scores& to = scores[step % blocks];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if (step / blocks == 0)
          multiply(to[half][j], own[half][0], now[2 * j], now[2 * j + 1]);
        else
          multiply_add(to[half][j], own[half][step / blocks], now[2 * j], now[2 * j + 1]);
  }
}

// sums += weights x streamed
template <int D>
__device__ void add_weighted(const RoundedScores& weights, std::uint32_t streamed, Sums<D>& sums) {
  std::uint32_t b[2][4];
  load_matrices_transposed(b[0], streamed);
#pragma unroll
  for (int d = 0; d < D / 16; ++d) {
    if (d + 1 < D / 16)
      load_matrices_transposed(b[(d + 1) % 2], streamed + static_cast<std::uint32_t>((d + 1) * 32));
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        multiply_add(sums[half][2 * d + j], weights[half], b[d % 2][2 * j], b[d % 2][2 * j + 1]);
  }
}

// --- elements of scores: number e is in half e / 8, product e / 4 % 2, there number e % 4 ---

__device__ inline float& element(Scores& scores, int e) {
  return scores[e / 8][e / 4 % 2][e % 4];
}
__device__ inline float element(const Scores& scores, int e) {
  return scores[e / 8][e / 4 % 2][e % 4];
}
__device__ inline float element(const RoundedScores& rounded, int e) {
  const std::uint32_t two = rounded[e / 8][e % 8 / 2];
  return __uint_as_float(e % 2 ? two & 0xffff0000u : two << 16);
}

__device__ inline void round_scores(const Scores& scores, RoundedScores& rounded) {
#pragma unroll
  for (int i = 0; i < 8; ++i)
    rounded[i / 4][i % 4] = pack_bf16(element(scores, 2 * i), element(scores, 2 * i + 1));
}

// --- from scores to P, where there is more to it than e^(S - lse) ---

constexpr float kInfinity = std::numeric_limits<float>::infinity();

__device__ inline std::uint32_t low_bits(int n) {
  return n <= 0 ? 0u : n >= 32 ? ~0u : (1u << n) - 1u;
}
// Bit c: whether `bounds` allow key `first` + c.
__device__ inline std::uint32_t keys_within(int2 bounds, int first) {
  return low_bits(bounds.y - first) & ~low_bits(bounds.x - first);
}

// Powers of 2, cut, times the gate; NaN stays NaN.
__device__ inline void raise_cut(float gate, Scores& exponents) {
#pragma unroll
  for (int e = 0; e < 16; ++e) {
    float& x = element(exponents, e);
    x = gate * fast_exp2(x > kGreatestExponent ? kGreatestExponent : x);
  }
}

// --- P on its way from one warp of a pair to the other; a buffer per group, guarded by two barriers ---

__device__ inline void wait_at(int barrier) {
  asm volatile("bar.sync %0, 64;" ::"r"(barrier) : "memory");
}
__device__ inline void arrive_at(int barrier) {
  asm volatile("bar.arrive %0, 64;" ::"r"(barrier) : "memory");
}
// Barrier 0 is for all.
__device__ inline int buffer_full(int group) {
  return 1 + 2 * group;
}
__device__ inline int buffer_free(int group) {
  return 2 + 2 * group;
}

__device__ inline void send(int group, const RoundedScores& p) {
  wait_at(buffer_free(group));
#pragma unroll
  for (int half = 0; half < 2; ++half)
    shared_memory().p[group][half][lane_id()] = {p[half][0], p[half][1], p[half][2], p[half][3]};
  arrive_at(buffer_full(group));
}

__device__ inline void receive(int group, RoundedScores& p) {
  wait_at(buffer_full(group));
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint4 x = shared_memory().p[group][half][lane_id()];
    p[half][0] = x.x;
    p[half][1] = x.y;
    p[half][2] = x.z;
    p[half][3] = x.w;
  }
  arrive_at(buffer_free(group));
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
__device__ void write_rows(const Sums<D>& sums, float factor, unsigned char* room, bfloat16* to, int stride,
                           int rows) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        *reinterpret_cast<std::uint32_t*>(room + (half * 16 + i * 8 + lane_id() / 4) * kRowBytes<D> + d * 16 +
                                          lane_id() % 4 * 4) =
            pack_bf16(factor * sums[half][d][2 * i], factor * sums[half][d][2 * i + 1]);
  __syncwarp();
  constexpr int kUnits = D / 8;
  for (int unit = lane_id(); unit < min(rows, kGroup) * kUnits; unit += kWarpSize)
    *reinterpret_cast<uint4*>(to + static_cast<std::int64_t>(unit / kUnits) * stride + unit % kUnits * 8) =
        *reinterpret_cast<const uint4*>(room + unit / kUnits * kRowBytes<D> + unit % kUnits * 16);
}

// One of the warp's results to where it belongs: own rows below `end`, or the item's segment. All warps must
// be done with the stages.
template <int D>
__device__ void write_result(const Problem& p, const Sums<D>& sums, float factor,
                             const HeadRows<bfloat16>& gradient, const Segments& segments, int kind,
                             int end) {
  const Place& at = shared_memory().at;
  const int row = group_of_warp(p) * kGroup;
  if (at.item.slot >= 0) return write_segment<D>(sums, factor, segments.at(p, at, kind, row, D));
  write_rows<D>(sums, factor, shared_memory().rows + row * kRowBytes<D> + kind * 2 * D,
                gradient.at(at.b * end + at.first + row, at.item.head * D), gradient.stride,
                end - at.first - row);
}

// --- what a warp does: visit after visit, block after block ---

// Where it is.
struct Cursor {
  int visit;
  int block;                   // first of Warp::kBlocks
  std::uint32_t down, across;  // where the lane reads its rows, for scores and for sums
};

// Visits `n` tiles. A Warp has add<kGeneralVisit>(cursor), which adds Warp::kBlocks blocks to its sums,
// begin_visit(v) and end_visit(v). `streamed` is the number of rows of the streamed side; load(v) copies the
// rows of visit v.
template <int D, class Warp, class Load>
__device__ void visit_tiles(Warp& warp, const Problem& p, int n, int group, int streamed, Load&& load) {
  const Visit* const visits = shared_memory().visits;
  constexpr int kBlocks = Warp::kBlocks;
#pragma unroll 1
  for (int v = 0; v < n; ++v) {
    wait_for_copies<0>();
    meet();
    warp.begin_visit(v);
    if (v + 1 < n) load(v + 1);
    commit_copies();
    const std::uint32_t rows = stage_address<D>(p, v % 2);
    Cursor at{v, 0, rows + static_cast<std::uint32_t>(2 * block_offset_down(kRowBytes<D> / 2)),
              rows + static_cast<std::uint32_t>(2 * block_offset_across(kRowBytes<D> / 2))};
    const int blocks = warp_uniform((min(p.tile, streamed - visits[v].first) + kBlock - 1) / kBlock);
    const auto advance = [&] {
      at.block += kBlocks;
      at.down += kBlocks * kBlockBytes<D>;
      at.across += kBlocks * kBlockBytes<D>;
    };
    if (visits[v].flags & kGeneral) {
#pragma unroll 1
      for (; at.block < blocks; advance())
        if (visits[v].parts >> (4 * at.block + group) & (kBlocks == 1 ? 0x1u : 0x11u))
          warp.template add<true>(at);
    } else {
#pragma unroll 1
      for (; at.block < blocks; advance()) warp.template add<false>(at);
    }
    warp.end_visit(v);
  }
  meet();
}

// --- the passes ---

void key_gradients(Context context, const Problem& p, int D, const WorkList& work);
void query_gradients(Context context, const Problem& p, int D, const WorkList& work);

// Sums the segments' results in order, into rows below `end`. `heads`: of a sequence in `gradient`.
void add_segments(Context context, const Problem& p, int D, const WorkList& work, const Segments& segments,
                  int kind, const HeadRows<bfloat16>& gradient, int heads, int end);

inline Tensor segment_room(Context context, const Problem& p, int D, const WorkList& work, int kinds) {
  return work.n_slots == 0 ? Tensor()
                           : workspace<float>(context, work.n_slots * p.sharing * kinds * p.tile * D);
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
  const std::int64_t ctas = work.n_items * p.sharing;
  if (ctas == 0) return;
  check(ctas <= std::numeric_limits<std::int32_t>::max(), "attention: too many work items for a launch");
  const int bytes = shared_bytes<D>(p.tile);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
  const int threads = (kPaired<D> ? 2 : 1) * kWarpSize * p.tile / kGroup;
  kernel<<<static_cast<unsigned>(ctas), static_cast<unsigned>(threads), static_cast<std::size_t>(bytes),
           stream(context)>>>(p, static_cast<const WorkItem*>(work.items.raw_data()), segments);
  check_launch();
}

}  // namespace filigree::cuda::backward16
