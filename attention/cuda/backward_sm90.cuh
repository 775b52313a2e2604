// What the two passes of the bf16 backward share on Hopper (backward_dkdv_sm90.cu, backward_dq_sm90.cu): the
// same passes as in backward_bf16.cuh, with the products of wgmma.cuh. D = 64 and 128, T = 64 and 128.
//
// A warpgroup owns 64 rows of the CTA's tile and takes the streamed tiles in steps of 64 rows. Its own rows
// and the streamed ones are operands in shared memory; P and dS never leave registers, since an accumulator,
// rounded, is what the sums need as their left operand. A step of the D = 128 passes moves 96 KiB (dk, dv)
// and 80 KiB (dq) of operands through shared memory in 1024 and 768 cycles of the tensor cores, which is
// below its 128 bytes a cycle.
#pragma once

#include "attention/cuda/backward_bf16.cuh"
#include "attention/cuda/wgmma.cuh"

namespace filigree::cuda::backward16::hopper {

constexpr int kStep = 64;            // rows of a warpgroup, and streamed rows of a step
using Scores = float[kStep / 8][4];  // a step's
using RoundedScores = std::uint32_t[kStep / 16][4];
template <int D>
using Sums = float[D / 8][4];

// --- shared memory, after the visits ---

// What streamed queries come with in the dk, dv pass, or their masks' rows the own queries in the dq pass.
struct StepExtras {
  float *log2_sum, *delta;  // [T]
  int2* bounds;             // [T]
  std::uint64_t* masks;     // [T, mask_words]
};

// Matrices of T rows, in panels: own x and y, then x and y of stages 0 and 1; x and y are q and o_grad, or k
// and v.
template <int D>
struct Room {
  int tile;
  std::uint32_t matrices;  // address
  char* extras;

  static __host__ __device__ constexpr int extras_bytes(int tile) { return 32 * tile; }
  static __host__ __device__ constexpr int matrix_bytes(int tile) { return 2 * D * tile; }
  static __host__ __device__ constexpr int extras_at(int tile) {
    return static_cast<int>(offsetof(Shared, visits)) +
           static_cast<int>(split_tiles(tile) * static_cast<std::int64_t>(sizeof(Visit)));
  }
  static __host__ __device__ constexpr int matrices_at(int tile) {
    return (extras_at(tile) + 15) / 16 * 16 + 2 * extras_bytes(tile);
  }
  static int bytes(int tile) { return matrices_at(tile) + 1024 + 6 * matrix_bytes(tile); }

  __device__ explicit Room(int tile_rows) : tile(tile_rows) {
    char* const start = reinterpret_cast<char*>(&shared_memory());
    extras = start + (extras_at(tile) + 15) / 16 * 16;
    matrices = (shared_address(start) + static_cast<std::uint32_t>(matrices_at(tile)) + 1023) / 1024 * 1024;
  }
  __device__ std::uint32_t panel_bytes() const { return static_cast<std::uint32_t>(tile * kPanelRowBytes); }
  __device__ std::uint32_t own(int which) const {
    return matrices + static_cast<std::uint32_t>(which * matrix_bytes(tile));
  }
  __device__ std::uint32_t streamed(int stage, int which) const { return own(2 + 2 * stage + which); }
  __device__ StepExtras extras_of(int stage) const {
    char* const at = extras + stage * extras_bytes(tile);
    return {reinterpret_cast<float*>(at), reinterpret_cast<float*>(at + 4 * tile),
            reinterpret_cast<int2*>(at + 8 * tile), reinterpret_cast<std::uint64_t*>(at + 16 * tile)};
  }
};

struct Barriers {
  CopyBarrier own, streamed[2];
};

// Two matrices, by one thread.
template <int D>
__device__ void load_matrices(const Room<D>& room, const CUtensorMap& x, const CUtensorMap& y, int b,
                              int head, int first, std::uint32_t to_x, std::uint32_t to_y,
                              CopyBarrier& barrier) {
  barrier.arm(2 * Room<D>::matrix_bytes(room.tile));
  copy_to_panels<D>(x, head * D, first, b, to_x, room.panel_bytes(), barrier);
  copy_to_panels<D>(y, head * D, first, b, to_y, room.panel_bytes(), barrier);
}

// By one thread, before a barrier of the CTA.
__device__ inline void init(Barriers& barriers) {
  barriers.own.init();
  for (CopyBarrier& b : barriers.streamed) b.init();
  publish_barriers();
}

// --- warps ---

// Uniform for the compiler too.
__device__ inline int warpgroup_id() {
  return warp_uniform(static_cast<int>(threadIdx.x) / kWarpgroup);
}
// The lane's rows of its warpgroup's 64 are this one and that 8 further on; in columns 8 n + lane_column()
// and the next of an accumulator.
__device__ inline int lane_row() {
  return warp_id() % 4 * 16 + lane_id() / 4;
}
__device__ inline int lane_column() {
  return lane_id() % 4 * 2;
}
// Whether the mask of the visit allows any pair of the warpgroup in a step.
__device__ inline bool has_parts(const Visit& visit, int step) {
  return (visit.parts >> (16 * step + 2 * warpgroup_id()) & 0x3333u) != 0;
}

template <int D>
__device__ void clear(Sums<D>& sums) {
#pragma unroll
  for (int d = 0; d < D / 8; ++d)
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[d][i] = 0;
}

// Element [n][i] of the scores that were rounded.
__device__ inline float element(const RoundedScores& rounded, int n, int i) {
  const std::uint32_t two = rounded[n / 2][n % 2 * 2 + i / 2];
  return __uint_as_float(i % 2 ? two & 0xffff0000u : two << 16);
}

// Powers of 2, cut, times the gate; NaN stays NaN.
__device__ inline void raise_cut(float gate, Scores& exponents) {
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = exponents[n][i];
      x = gate * fast_exp2(x > kGreatestExponent ? kGreatestExponent : x);
    }
}

// --- visits ---

// Visits `n` tiles: load(v) starts the copies of visit v, the first of which are under way; add(v, step) adds
// a step of it. The products of a visit are over when the next begins.
template <class Load, class Add, class Begin, class End>
__device__ void visit_tiles(const Problem& p, int n, int streamed, Barriers& barriers, Load&& load,
                            Begin&& begin, Add&& add, End&& end) {
  barriers.own.wait(0);
#pragma unroll 1
  for (int v = 0; v < n; ++v) {
    wait_for_copies<0>();
    __syncthreads();  // what threads copied is there for all, and the visit before is done with
    begin(v);
    if (v + 1 < n) load(v + 1);
    commit_copies();
    const Visit& visit = shared_memory().visits[v];
    const int steps = warp_uniform((min(p.tile, streamed - visit.first) + kStep - 1) / kStep);
    barriers.streamed[v % 2].wait(v / 2 % 2);
#pragma unroll 1
    for (int step = 0; step < steps; ++step)
      if (has_parts(visit, step)) add(v, step);
    wait_for_products<0>();
    end(v);
  }
  __syncthreads();
}

// --- results ---

template <int D>
__device__ void write_segment(const Sums<D>& sums, float factor, float* to) {
  to += lane_row() * D + lane_column();
#pragma unroll
  for (int d = 0; d < D / 8; ++d)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      *reinterpret_cast<float2*>(to + i * 8 * D + d * 8) = {factor * sums[d][2 * i],
                                                            factor * sums[d][2 * i + 1]};
}

// The warpgroup's sums to where they belong: own rows below `end`, or the item's segment. By way of the own
// matrix `which`, so that whole units of 16 bytes are written.
template <int D>
__device__ void write_result(const Problem& p, const Room<D>& room, const Sums<D>& sums, float factor,
                             const HeadRows<bfloat16>& gradient, const Segments& segments, int which,
                             int end) {
  const Place& at = shared_memory().at;
  const int first = warpgroup_id() * kStep;
  if (at.item.slot >= 0) return write_segment<D>(sums, factor, segments.at(p, at, which, first, D));
  write_rounded(
      sums, factor, room.own(which), room.panel_bytes(), first + warp_id() % 4 * 16,
      [&](int row, int unit, const uint4& x) {
        if (at.first + row >= end) return;
        *reinterpret_cast<uint4*>(gradient.at(at.b * end + at.first + row, at.item.head * D + unit * 8)) = x;
      });
}

// --- host ---

template <int D, class Kernel>
void launch_pass(Context context, const Problem& p, const Maps& maps, Kernel kernel, const WorkList& work,
                 const Segments& segments) {
  const std::int64_t ctas = work.n_items * p.sharing;
  if (ctas == 0) return;
  check(ctas <= std::numeric_limits<std::int32_t>::max(), "attention: too many work items for a launch");
  const int bytes = Room<D>::bytes(p.tile);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
  kernel<<<static_cast<unsigned>(ctas), static_cast<unsigned>(p.tile / kStep * kWarpgroup),
           static_cast<std::size_t>(bytes), stream(context)>>>(
      p, maps, static_cast<const WorkItem*>(work.items.raw_data()), segments);
  check_launch();
}

// Calls f with the head dim as a type.
template <class F>
void with_head_dim(int D, F&& f) {
  if (D == 64) return f(std::integral_constant<int, 64>());
  check(D == 128, "attention: the Hopper kernels were given another head dim");
  f(std::integral_constant<int, 128>());
}

}  // namespace filigree::cuda::backward16::hopper
