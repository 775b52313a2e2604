// Forward in bf16 on Hopper: what forward_bf16.cu computes, in the same steps of 64 keys, with the products
// of wgmma.cuh. D = 64 and 128, T = 64 and 128. A warpgroup owns 64 queries, which are operands in registers:
// from shared memory, they would take its whole bandwidth together with the keys.
//
// While the tensor cores work on P V of a step, the warps bring the next step's S to powers (after
// FlashAttention-3, Shah et al. 2024): products are started for S of the next step, then for P V of this one.
#include <limits>

#include "attention/cuda/forward_bf16.cuh"
#include "attention/cuda/wgmma.cuh"

namespace filigree::cuda::forward16 {
namespace {

constexpr int kGroupRows = 64;  // queries of a warpgroup
constexpr int kQueryRows = 16;  // of a warp
constexpr float kSlack = 8;     // as in forward_bf16.cu
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLn2 = 0.693147180559945309417f;
constexpr double kLog2E = 1.44269504088896340736;

// Bounds a thread's registers: 255, and 168 at D = 64, so that three warpgroups fit a multiprocessor.
template <int D>
constexpr int kThreadsAtOnce = D == 64 ? 384 : 256;

using Scores = float[kStep / 8][4];  // of 16 queries and a step's keys, see wgmma.cuh
using Powers = std::uint32_t[kStep / 16][4];

// --- shared memory: the list of tiles; masks of two steps, a word for each thread; queries [T, D]; keys of
// two steps [kStep, D], values of two steps [kStep, D] ---

template <int D>
class Room {
 public:
  __device__ Room(const Problem& p, uint4* room)
      : room_(reinterpret_cast<char*>(room)),
        tile_(p.tile),
        matrices_((shared_address(room) + static_cast<std::uint32_t>(matrices_at(p.tile)) + 1023) / 1024 *
                  1024) {}

  static __host__ __device__ constexpr int masks_at(int tile) {
    return static_cast<int>(split_tiles(tile) + 1) * static_cast<int>(sizeof(Tile));
  }
  static __host__ __device__ constexpr int matrices_at(int tile) { return masks_at(tile) + 2 * 2 * tile * 4; }
  static constexpr int bytes(int tile) { return matrices_at(tile) + 1024 + 2 * D * tile + 4 * 2 * D * kStep; }

  __device__ Tile* tiles() const { return reinterpret_cast<Tile*>(room_); }
  // The thread's word: of the warp's query lane_id() % 16, keys of the step's half lane_id() / 16.
  __device__ std::uint32_t& mask(int step) const {
    return reinterpret_cast<std::uint32_t*>(
        room_ + masks_at(tile_))[(step & 1) * 2 * tile_ + static_cast<int>(threadIdx.x)];
  }
  __device__ std::uint32_t queries() const { return matrices_; }
  __device__ std::uint32_t query_panel() const { return static_cast<std::uint32_t>(tile_ * kPanelRowBytes); }
  __device__ std::uint32_t keys(int step) const {
    return matrices_ + static_cast<std::uint32_t>(2 * D * tile_ + (step & 1) * 2 * D * kStep);
  }
  __device__ std::uint32_t values(int step) const { return keys(step) + 2 * 2 * D * kStep; }

 private:
  char* room_;
  int tile_;
  std::uint32_t matrices_;
};
constexpr std::uint32_t kStepPanel = kStep * kPanelRowBytes;

// --- copies ---

template <int D>
__device__ void copy_keys_or_values(const Problem& p, const Room<D>& room, const Place& at, int step,
                                    std::int64_t offset, std::uint32_t to) {
  const int key = half_at(p, room.tiles(), step * kStep).key;
  const char* const from = p.k.row<D>(at.b, key, at.item.head / p.heads_per_kv) + offset;
  copy_to_panels<D>(reinterpret_cast<const bfloat16*>(from), p.k.stride / 2, kStep, p.M - key, to,
                    static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
}

template <int D>
__device__ void copy_keys(const Problem& p, const Room<D>& room, const Place& at, int step) {
  copy_keys_or_values(p, room, at, step, 0, room.keys(step));
  const Step now = step_at(p, room.tiles(), step);
  const Half& half = now.halves[lane_id() / 16];
  if (is_full(now) || half.mask < 0) return;
  const int row = warp_id() * kQueryRows + lane_id() % 16;
  copy_async_4(shared_address(&room.mask(step)),
               p.masks + half.mask * p.mask_size + row * p.mask_words + half.column / 32);
}
template <int D>
__device__ void copy_values(const Problem& p, const Room<D>& room, const Place& at, int step) {
  copy_keys_or_values(p, room, at, step, p.values_at, room.values(step));
}

// --- a warp's arithmetic: a lane has rows row_of(0) and row_of(1), columns first_column() and the next of
// each 8 ---

__device__ int row_of(int r) {
  return lane_id() / 4 + 8 * r;
}
__device__ int first_column() {
  return lane_id() % 4 * 2;
}

// Brings raw products to S + log2 m in units of log 2, if more than the scale is to be applied. Returns the
// factor, greater than 0, that is left to apply.
__device__ float add_bias(const Problem& p, const Step& step, float log2_slope, int first_query, Scores& s) {
  const bool scale_only = !p.slopes && p.log2_scale > 0;
  if (scale_only && step.halves[0].log2_gate == 0 && step.halves[1].log2_gate == 0) return p.log2_scale;
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n) {
    const Half& half = step.halves[n / 4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int distance = first_query + row_of(i / 2) - half.key - (n % 4 * 8 + first_column() + i % 2);
      s[n][i] =
          fmaf(s[n][i], p.log2_scale, half.log2_gate - log2_slope * fabsf(static_cast<float>(distance)));
    }
  }
  return 1;
}

// -inf where the lane's queries may not see a key. `bits` of a lane is as Room::mask.
__device__ void apply_mask(std::uint32_t bits, Scores& s) {
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::uint32_t of_row = __shfl_sync(kWholeWarp, bits, row_of(r) + 16 * h) >> first_column();
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c)
          if (!(of_row & (1u << (8 * n + c)))) s[4 * h + n][2 * r + c] = kMinusInfinity;
    }
}

template <int D>
__device__ void mask_scores(const Problem& p, const Room<D>& room, int number, const KeyRange& range,
                            Scores& s) {
  const Step step = step_at(p, room.tiles(), number);
  if (is_full(step)) return;
  const Half& half = step.halves[lane_id() / 16];
  std::uint32_t bits = half.mask >= 0 ? room.mask(number) : ~0u;
  bits &= low_bits(range.high - half.key) & ~low_bits(range.low - half.key);
  if (!__all_sync(kWholeWarp, bits == ~0u)) apply_mask(bits, s);
}

// The lane's rows of the result: sums of 2^(S - shift), of its own columns only, and of those times v.
template <int D>
struct Sums {
  float shift[2], sum[2];
  float o[D / 8][4];

  __device__ Sums() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      shift[r] = std::numeric_limits<float>::lowest();  // not -inf, of which differences are NaN
      sum[r] = 0;
    }
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[d][i] = 0;
  }

  __device__ void scale_rows(const float (&factor)[2]) {
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[d][i] *= factor[i / 2];
  }
};

// Lets the shifts follow the maxima of S = factor s, and scales the sums, but for o: that by `shrink`, if
// true is returned. A NaN is no maximum, and its power is NaN.
template <int D>
__device__ bool raise_shifts(const Scores& s, float factor, Sums<D>& sums, float (&shrink)[2]) {
  float greatest[2];
  bool behind = false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float x = kMinusInfinity;
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n) x = fmaxf(x, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
    x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 1));
    x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 2));
    greatest[r] = factor * x;
    behind |= greatest[r] > sums.shift[r] + kSlack;
  }
  if (!__any_sync(kWholeWarp, behind)) return false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float shift = fmaxf(sums.shift[r], greatest[r]);
    shrink[r] = fast_exp2(sums.shift[r] - shift);
    sums.shift[r] = shift;
    sums.sum[r] *= shrink[r];
  }
  return true;
}

// S -> 2^(S - shift), added to the sums.
template <int D>
__device__ void take_powers(float factor, Sums<D>& sums, Scores& s) {
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[n][i] = fast_exp2(fmaf(s[n][i], factor, -sums.shift[i / 2]));
      sums.sum[i / 2] += s[n][i];
    }
}

// --- results ---

// The warp's rows of o go through shared memory, in place of its queries, into whole lines.
template <int D>
__device__ void write_rows(const Problem& p, const Room<D>& room, const Place& at, const Sums<D>& sums) {
  const int first = warp_id() * kQueryRows;
#pragma unroll
  for (int d = 0; d < D / 8; ++d)
#pragma unroll
    for (int r = 0; r < 2; ++r)
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(room.queries() +
                                                   unit_offset(first + row_of(r), d, room.query_panel()) +
                                                   static_cast<std::uint32_t>(2 * first_column())),
                   "r"(pack_bf16(sums.o[d][2 * r], sums.o[d][2 * r + 1]))
                   : "memory");
  __syncwarp();
  constexpr int kUnits = D / 8;
#pragma unroll 4
  for (int i = lane_id(); i < kQueryRows * kUnits; i += kWarpSize) {
    const int row = first + i / kUnits, unit = i % kUnits, n = at.item.tile * p.tile + row;
    uint4 x;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(room.queries() + unit_offset(row, unit, room.query_panel()))
                 : "memory");
    if (n < p.N)
      *reinterpret_cast<uint4*>(p.o + ((static_cast<std::int64_t>(at.b) * p.N + n) * p.H + at.item.head) * D +
                                unit * 8) = x;
  }
}

template <int D>
__device__ void write_segment(const Problem& p, const Place& at, const Sums<D>& sums, const float (&lse)[2]) {
  const std::int64_t first =
      (static_cast<std::int64_t>(at.item.slot) * p.sharing + at.b % p.sharing) * p.tile +
      warp_id() * kQueryRows;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float* const o = p.segment_o + (first + row_of(r)) * D + first_column();
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
      *reinterpret_cast<float2*>(o + 8 * d) = {sums.o[d][2 * r], sums.o[d][2 * r + 1]};
    if (lane_id() % 4 == 0) p.segment_lse[first + row_of(r)] = lse[r];
  }
}

// A row without keys has o = 0 and lse = -inf. A NaN sum must stay visible, hence no comparison with > 0.
template <int D>
__device__ void write_result(const Problem& p, const Room<D>& room, const Place& at, Sums<D>& sums) {
  float lse[2], factor[2];  // lse in units of log 2
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = sums.sum[r];
    sum += __shfl_xor_sync(kWholeWarp, sum, 1);
    sum += __shfl_xor_sync(kWholeWarp, sum, 2);
    factor[r] = sum == 0 ? 0.0f : __fdividef(1.0f, sum);
    lse[r] = sum == 0 ? kMinusInfinity : sums.shift[r] + log2f(sum);
  }
  sums.scale_rows(factor);
  if (at.item.slot >= 0) return write_segment(p, at, sums, lse);
  write_rows(p, room, at, sums);
  float* const to = p.lse + (static_cast<std::int64_t>(at.b) * p.H + at.item.head) * p.N;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int n = at.item.tile * p.tile + warp_id() * kQueryRows + row_of(r);
    if (lane_id() % 4 == 0 && n < p.N) to[n] = kLn2 * lse[r];
  }
}

// --- kernel ---

template <int D>
struct Forward {
  const Problem& p;
  Room<D> room;
  Place at;
  int steps;
  KeyRange range;  // of the query whose mask the thread copies
  float log2_slope;
  std::uint32_t q[D / 16][4];
  Sums<D> sums;

  __device__ void load_queries() {
    const std::uint32_t row = static_cast<std::uint32_t>(warp_id() * kQueryRows + lane_id() % 16);
#pragma unroll
    for (int d = 0; d < D / 16; ++d)
      load_matrices(q[d], room.queries() +
                              unit_offset(static_cast<int>(row), 2 * d + lane_id() / 16, room.query_panel()));
  }

  __device__ void multiply_keys(int step, Scores& s) const {
    const std::uint64_t keys = operand(room.keys(step));
#pragma unroll
    for (int d = 0; d < D / 16; ++d) {
      const std::uint64_t k = keys + static_cast<std::uint64_t>(d / 4 * (kStepPanel / 16)) +
                              static_cast<std::uint64_t>(d % 4) * kSixteenColumns;
      if (d == 0)
        product_of_rows<false>(s, q[d], k);
      else
        product_of_rows<true>(s, q[d], k);
    }
    commit_products();
  }

  // S -> powers; whether o has to be scaled by `shrink` before they are used.
  __device__ bool soften(int step, Scores& s, float (&shrink)[2]) {
    const float factor = add_bias(p, step_at(p, room.tiles(), step), log2_slope,
                                  at.item.tile * p.tile + warp_id() * kQueryRows, s);
    mask_scores(p, room, step, range, s);
    const bool raised = raise_shifts(s, factor, sums, shrink);
    take_powers(factor, sums, s);
    return raised;
  }

  // What was copied is there for all.
  __device__ void meet() const {
    wait_for_all_copies();
    publish_to_products();
    __syncthreads();
  }

  __device__ void run() {
    copy_keys(p, room, at, 0);
    meet();
    load_queries();
    copy_values(p, room, at, 0);
    if (1 < steps) copy_keys(p, room, at, 1);
    Scores s;
    Powers powers;
    float shrink[2];
    fence_products();
    multiply_keys(0, s);
    wait_for_products<0>();
    pin(s);
    soften(0, s, shrink);
    round_to_operand(s, powers);
#pragma unroll 1
    for (int step = 0; step + 1 < steps; ++step) {
      meet();  // also: all are done with the keys of this step and the values of the one before
      copy_values(p, room, at, step + 1);
      if (step + 2 < steps) copy_keys(p, room, at, step + 2);
      fence_products();
      multiply_keys(step + 1, s);
      add_products(sums.o, powers, operand(room.values(step), kStepPanel));
      commit_products();
      wait_for_products<1>();
      pin(s);
      const bool raised = soften(step + 1, s, shrink);
      wait_for_products<0>();
      pin(sums.o);
      if (raised) sums.scale_rows(shrink);
      round_to_operand(s, powers);
    }
    meet();
    fence_products();
    add_products(sums.o, powers, operand(room.values(steps - 1), kStepPanel));
    commit_products();
    wait_for_products<0>();
    pin(sums.o);
  }
};

template <int D>
__global__ void __launch_bounds__(kThreadsAtOnce<D>, 1) forward_kernel(const __grid_constant__ Problem p) {
  extern __shared__ uint4 memory[];
  __shared__ int n_tiles;
  const Room<D> room(p, memory);
  const Place at = place_of_cta(p);
  const int first = at.item.tile * p.tile;
  copy_to_panels<D>(reinterpret_cast<const bfloat16*>(p.q.row<D>(at.b, first, at.item.head)), p.q.stride / 2,
                    p.tile, p.N - first, room.queries(), static_cast<int>(threadIdx.x),
                    static_cast<int>(blockDim.x));
  if (warp_id() == 0) {
    const int n = list_tiles(p, at, room.tiles());
    if (lane_id() == 0) n_tiles = n;
  }
  __syncthreads();
  Forward<D> forward{p,
                     room,
                     at,
                     n_tiles * (p.tile / kStep),
                     key_range(p, at.b, first + warp_id() * kQueryRows + lane_id() % 16),
                     p.slopes ? static_cast<float>(p.slopes[at.item.head] * kLog2E) : 0.0f,
                     {},
                     {}};
  if (forward.steps > 0)
    forward.run();
  else
    wait_for_all_copies();  // they would arrive in what is written
  __syncthreads();
  write_result(p, room, at, forward.sums);
}

template <int D>
void launch(Context context, const Problem& p, unsigned ctas) {
  const int bytes = Room<D>::bytes(p.tile);
  check_cuda(cudaFuncSetAttribute(forward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  check_cuda(cudaFuncSetAttribute(forward_kernel<D>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
  forward_kernel<D><<<ctas, static_cast<unsigned>(p.tile / kGroupRows * kWarpgroup),
                      static_cast<std::size_t>(bytes), stream(context)>>>(p);
  check_launch();
}

}  // namespace

void launch_hopper(Context context, const Problem& p, unsigned ctas, int D) {
  if (D == 64) return launch<64>(context, p, ctas);
  check(D == 128, "attention: the Hopper kernels were given another head dim");
  launch<128>(context, p, ctas);
}

}  // namespace filigree::cuda::forward16
