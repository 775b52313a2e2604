// The warps' part in the two passes of the portable bf16 backward (backward_bf16.cuh).
//
// Of the T rows of its tile a CTA gives a group of 32 to each warp, or for each pair of warps where D > 64.
// Shared memory would be the bottleneck of these loops: a 16 x 8 operand takes two cycles to read, and one
// product of 16 rows with it takes the tensor cores 1.6. So every operand that is read serves both 16-row
// halves of a group, and the own operands stay in registers. For D > 64 these and the sums do not fit into
// one warp's registers. Then two warps share a group: the P warp computes S and P, the dS warp computes dP,
// gets P through shared memory, and computes dS. Of the sums, dv belongs to the P warp, dk and dq to the dS
// warp. Both run the same code wherever a barrier is: one that is reached from two places is hard to check.
#pragma once

#include <type_traits>

#include "attention/cuda/backward_bf16.cuh"

namespace filigree::cuda::backward16 {

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

// --- shared memory ---

template <int D>
int shared_bytes(int tile) {
  return static_cast<int>(offsetof(Shared, rows)) + 2 * tile * kRowBytes<D>;
}

template <int D>
__device__ std::uint32_t stage_address(const Problem& p, int stage) {
  return shared_address(shared_memory().rows) + static_cast<std::uint32_t>(stage * p.tile * kRowBytes<D>);
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

// --- roles ---

__device__ inline int group_of_warp(const Problem& p) {
  return warp_uniform(warp_id() & (p.tile / kGroup - 1));
}

// Whether the warp is the dS warp of its pair. Warps w and w + 4 share a scheduler: with four groups each
// scheduler gets one warp of either kind. With two groups the second CTA of a multiprocessor has them the
// other way round.
__device__ inline bool computes_ds(const Problem& p) {
  return warp_uniform((warp_id() >= p.tile / kGroup) != shared_memory().at.swapped) != 0;
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

// Powers of 2, cut, times the gate; NaN stays NaN.
__device__ inline void raise_cut(float gate, Scores& exponents) {
#pragma unroll
  for (int e = 0; e < 16; ++e) {
    float& x = element(exponents, e);
    x = gate * fast_exp2(x > kGreatestExponent ? kGreatestExponent : x);
  }
}

// --- P on its way from one warp of a pair to the other ---

// A block's P is written, the pair meets, and it is read. By the next meeting the dS warp has read it, so
// that two buffers in turns are enough.
class Passage {
 public:
  __device__ explicit Passage(int group) : group_(group) {}

  __device__ void write(const RoundedScores& p) const {
    for_halves([&](int half, uint4& place) { place = {p[half][0], p[half][1], p[half][2], p[half][3]}; });
  }
  __device__ void meet() const {  // barrier 0 is for all
    asm volatile("bar.sync %0, 64;" ::"r"(1 + group_) : "memory");
  }
  __device__ void read(RoundedScores& p) const {
    for_halves([&](int half, const uint4& place) {
      const uint4 x = place;
      p[half][0] = x.x;
      p[half][1] = x.y;
      p[half][2] = x.z;
      p[half][3] = x.w;
    });
  }
  __device__ void next() { odd_ = !odd_; }

 private:
  template <class F>
  __device__ void for_halves(F&& f) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) f(half, shared_memory().p[group_][odd_][half][lane_id()]);
  }

  int group_;
  bool odd_ = false;
};

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
    __syncthreads();
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
  __syncthreads();
}

// The pass of a CTA once it has listed its visits: the own rows have been committed as one group of copies,
// the first visit's, if any, as the next.
template <int D, class Warp, class Load>
__device__ void run_visits(const Problem& p, int n, int streamed, const Segments& segments, Load&& load) {
  if (n > 0)
    wait_for_copies<1>();
  else
    wait_for_copies<0>();
  __syncthreads();
  const int group = group_of_warp(p);
  Warp warp(p, group, stage_address<D>(p, 1) + static_cast<std::uint32_t>(group * kGroup * kRowBytes<D>));
  visit_tiles<D>(warp, p, n, group, streamed, load);
  warp.begin_visit(n);  // what the last visit has left
  warp.finish(segments);
}

// --- host ---

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
