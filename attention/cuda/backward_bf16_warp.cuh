// What the warps of both passes of the bf16 backward do (backward_bf16.cuh): products on tensor cores, the
// exponentials' special cases, P on its way from warp to warp, the loop over tiles, and the results.
#pragma once

#include "attention/cuda/backward_bf16.cuh"

namespace filigree::cuda::backward16 {

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

}  // namespace filigree::cuda::backward16
