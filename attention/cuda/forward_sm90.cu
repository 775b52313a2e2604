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
constexpr std::uint32_t kStepPanel = kStep * kPanelRowBytes;

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

// --- copies ---

// The tensors that are copied: queries T rows at a time, keys and values a step.
struct Maps {
  CUtensorMap q, k, v;
};
struct Barriers {
  CopyBarrier queries, keys[2], values[2];

  // By one thread, before a barrier of the CTA.
  __device__ void init() {
    queries.init();
    for (int i = 0; i < 2; ++i) {
      keys[i].init();
      values[i].init();
    }
    publish_barriers();
  }
};

// Keys of one tile.
struct StepTile {
  int key;     // the first
  int column;  // of the tile, that key is
  int mask;    // of the tile, as its log2_gate
  float log2_gate;
};
__device__ StepTile step_tile(const Problem& p, const Tile* tiles, int step) {
  const int slot = step * kStep;
  const Tile tile = tiles[slot >> p.tile_shift];
  const int column = slot & (p.tile - 1);
  return {tile.key + column, column, tile.mask, tile.log2_gate};
}

// By one thread.
template <int D>
__device__ void copy_step(const Problem& p, const CUtensorMap& map, const Room<D>& room, const Place& at,
                          int step, std::uint32_t to, CopyBarrier& barrier) {
  barrier.arm(2 * D * kStep);
  copy_to_panels<D>(map, at.item.head / p.heads_per_kv * D, step_tile(p, room.tiles(), step).key, at.b, to,
                    kStepPanel, barrier);
}

// The thread's word of a partial tile's mask.
template <int D>
__device__ void copy_mask(const Problem& p, const Room<D>& room, int number) {
  const StepTile step = step_tile(p, room.tiles(), number);
  if (step.mask < 0) return;
  const int row = warp_id() * kQueryRows + lane_id() % 16;
  copy_async_4(shared_address(&room.mask(number)),
               p.masks + step.mask * p.mask_size + row * p.mask_words + step.column / 32 + lane_id() / 16);
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
__device__ float add_bias(const Problem& p, const StepTile& step, float log2_slope, int first_query,
                          Scores& s) {
  if (!p.slopes && p.log2_scale > 0 && step.log2_gate == 0) return p.log2_scale;
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int distance = first_query + row_of(i / 2) - step.key - (8 * n + first_column() + i % 2);
      s[n][i] =
          fmaf(s[n][i], p.log2_scale, step.log2_gate - log2_slope * fabsf(static_cast<float>(distance)));
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
__device__ void mask_scores(const Room<D>& room, int number, const StepTile& step, const KeyRange& range,
                            Scores& s) {
  if (step.mask == kFullTile) return;
  const int key = step.key + lane_id() / 16 * 32;
  std::uint32_t bits = step.mask >= 0 ? room.mask(number) : ~0u;
  bits &= low_bits(range.high - key) & ~low_bits(range.low - key);
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

// The warp's rows of o go through shared memory, in place of its queries.
template <int D>
__device__ void write_rows(const Problem& p, const Room<D>& room, const Place& at, const Sums<D>& sums) {
  write_rounded(sums.o, 1, room.queries(), room.query_panel(), warp_id() * kQueryRows,
                [&](int row, int unit, const uint4& x) {
                  const int n = at.item.tile * p.tile + row;
                  if (n >= p.N) return;
                  const std::int64_t to = (static_cast<std::int64_t>(at.b) * p.N + n) * p.H + at.item.head;
                  *reinterpret_cast<uint4*>(p.o + to * D + unit * 8) = x;
                });
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
  const Maps& maps;
  Room<D> room;
  Barriers& barriers;
  Place at;
  int steps;
  KeyRange range;  // of the query whose mask the thread copies
  float log2_slope;
  std::uint32_t q[D / 16][4];
  Sums<D> sums;

  __device__ void load_queries() {
    barriers.queries.wait(0);
    const int row = warp_id() * kQueryRows + lane_id() % 16;
#pragma unroll
    for (int d = 0; d < D / 16; ++d)
      load_matrices(q[d], room.queries() + unit_offset(row, 2 * d + lane_id() / 16, room.query_panel()));
  }

  // Where there is such a step. Copies of values by one thread, of keys by one thread, of masks by all.
  __device__ void copy_values(int step) {
    if (threadIdx.x == 0 && step < steps)
      copy_step(p, maps.v, room, at, step, room.values(step), barriers.values[step & 1]);
  }
  __device__ void copy_keys(int step) {
    if (step < steps) {
      if (threadIdx.x == 0) copy_step(p, maps.k, room, at, step, room.keys(step), barriers.keys[step & 1]);
      copy_mask(p, room, step);
    }
    commit_copies();
  }

  __device__ void multiply_keys(int step, Scores& s) {
    const std::uint64_t keys = operand(room.keys(step));
    barriers.keys[step & 1].wait(step / 2 & 1);
    fence_products();
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
  __device__ void add_values(int step, const Powers& powers) {
    barriers.values[step & 1].wait(step / 2 & 1);
    fence_products();
    add_products(sums.o, powers, operand(room.values(step), kStepPanel));
    commit_products();
  }

  // S -> powers; whether o has to be scaled by `shrink` before they are used.
  __device__ bool soften(int number, Scores& s, float (&shrink)[2]) {
    const StepTile step = step_tile(p, room.tiles(), number);
    const float factor = add_bias(p, step, log2_slope, at.item.tile * p.tile + warp_id() * kQueryRows, s);
    mask_scores(room, number, step, range, s);
    const bool raised = raise_shifts(s, factor, sums, shrink);
    take_powers(factor, sums, s);
    return raised;
  }

  __device__ void run() {
    copy_keys(0);
    copy_values(0);
    copy_keys(1);
    load_queries();
    Scores s;
    Powers powers;
    float shrink[2];
    multiply_keys(0, s);
    wait_for_copies<1>();
    wait_for_products<0>();
    pin(s);
    soften(0, s, shrink);
    round_to_operand(s, powers);
#pragma unroll 1
    for (int step = 0; step + 1 < steps; ++step) {
      __syncthreads();  // all are done with the keys of this step and the values of the one before
      copy_values(step + 1);
      copy_keys(step + 2);
      multiply_keys(step + 1, s);
      add_values(step, powers);
      wait_for_copies<1>();
      wait_for_products<1>();
      pin(s);
      const bool raised = soften(step + 1, s, shrink);
      wait_for_products<0>();
      pin(sums.o);
      if (raised) sums.scale_rows(shrink);
      round_to_operand(s, powers);
    }
    add_values(steps - 1, powers);
    wait_for_products<0>();
    pin(sums.o);
  }
};

template <int D>
__global__ void __launch_bounds__(kThreadsAtOnce<D>, 1)
    forward_kernel(const __grid_constant__ Problem p, const __grid_constant__ Maps maps) {
  extern __shared__ uint4 memory[];
  __shared__ int n_tiles;
  __shared__ Barriers barriers;
  const Room<D> room(p, memory);
  const Place at = place_of_cta(p);
  const int first = at.item.tile * p.tile;
  if (threadIdx.x == 0) {
    barriers.init();
    barriers.queries.arm(2 * D * p.tile);
    copy_to_panels<D>(maps.q, at.item.head * D, first, at.b, room.queries(), room.query_panel(),
                      barriers.queries);
  }
  if (warp_id() == 0) {
    const int n = list_tiles(p, at, room.tiles());
    if (lane_id() == 0) n_tiles = n;
  }
  __syncthreads();
  Forward<D> forward{p,
                     maps,
                     room,
                     barriers,
                     at,
                     n_tiles * (p.tile / kStep),
                     key_range(p, at.b, first + warp_id() * kQueryRows + lane_id() % 16),
                     p.slopes ? static_cast<float>(p.slopes[at.item.head] * kLog2E) : 0.0f,
                     {},
                     {}};
  if (forward.steps > 0)
    forward.run();
  else
    barriers.queries.wait(0);  // they would arrive in what is written
  write_result(p, room, at, forward.sums);
}

template <int D>
void launch(Context context, const Problem& p, const Maps& maps, unsigned ctas) {
  const int bytes = Room<D>::bytes(p.tile);
  check_cuda(cudaFuncSetAttribute(forward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  check_cuda(cudaFuncSetAttribute(forward_kernel<D>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
  forward_kernel<D><<<ctas, static_cast<unsigned>(p.tile / kGroupRows * kWarpgroup),
                      static_cast<std::size_t>(bytes), stream(context)>>>(p, maps);
  check_launch();
}

}  // namespace

void launch_hopper(Context context, const Problem& p, const AttentionInput& in, unsigned ctas) {
  const std::int64_t D = in.q.dim();
  const Maps maps{tensor_map(in.q, p.tile), tensor_map(in.k, kStep), tensor_map(in.v, kStep)};
  if (D == 64) return launch<64>(context, p, maps, ctas);
  check(D == 128, "attention: the Hopper kernels were given another head dim");
  launch<128>(context, p, maps, ctas);
}

}  // namespace filigree::cuda::forward16
