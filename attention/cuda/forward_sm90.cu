// Forward in bf16 on Hopper, after FlashAttention-3 (Shah et al. 2024). A CTA (hopper.cuh) owns 128 queries;
// a stage is 128 keys, one tile of 128 or two of 64. Each warpgroup, for its 64 queries,
//   S = Q K^T,  P = 2^(S - shift),  sum += P,  O += P V
// where the products of the next stage's S are started before those of this one's O: while the tensor cores
// compute O, the warps bring the next S to powers, and while the warps of one warpgroup do so, the tensor
// cores have the other's products to do.
//
// Scores are in units of log 2. `shift` follows the row's maximum only when it falls behind by more than
// kSlack.
#include <algorithm>

#include "attention/cuda/forward_sm90.cuh"

namespace filigree::cuda::hopper {
namespace forward_pass {
namespace {

// --- a warpgroup ---

template <int D>
struct Consumer {
  const ForwardProblem& p;
  Shared<D>& shared;
  const int group = warpgroup_id();
  RingPlace<kStages<D>> keys, values;  // of the stage whose S comes next
  RingPlace<kStages<D>> due;           // of the values of the one whose O comes next
  RingPlace<2> queries;
  int query;  // the lane's first
  float log2_slope;
  KeyRange ranges[2];  // of the lane's two queries, where there are bounds
  float shift[2], sum[2];
  Fragment<kStageKeys> s;
  Rounded<kStageKeys> powers;
  Fragment<D> o;

  // All threads arrive by warps: what a warp has waited for, its lanes are done with.
  __device__ static void arrive(Barrier& barrier) {
    if (lane_id() == 0) barrier.arrive();
  }

  __device__ void run() {
    if (kTakesTurns<D> && group == 1) named_arrive(1, kConsumers);  // the first turn is warpgroup 0's
    for (;; ++queries.passed) {
      shared.queries_full[queries.slot()].wait(queries.parity());
      const int number = warp_uniform(lane_id() == 0 ? shared.work[queries.slot()] : 0);
      if (number < 0) return;
      const Work work(p, number, p.H);
      begin(work);
      attend();
      write_result(work);
      fence_proxies();
      __syncwarp();
      arrive(shared.queries_empty[queries.slot()]);
    }
  }

  __device__ void begin(const Work& work) {
    query = work.first + group * kGroupRows + warp_id() % 4 * 16 + s.row();
    log2_slope = p.slopes ? p.slopes[work.head] * kLog2E : 0.0f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      ranges[r] = key_range(p, work.b, query + 8 * r);
      shift[r] = std::numeric_limits<float>::lowest();  // not -inf, of which differences are NaN
      sum[r] = 0;
    }
    o.clear();
  }

  // The products of one warpgroup are started while the other has other things to do.
  __device__ void take_turn() const {
    if constexpr (kTakesTurns<D>) named_sync(1 + group, kConsumers);
  }
  __device__ void pass_turn() const {
    if constexpr (kTakesTurns<D>) named_arrive(2 - group, kConsumers);
  }

  __device__ void attend() {
    if (!next_stage()) return release_keys();
    float shrink[2];
    take_turn();
    multiply_keys();
    pass_turn();
    finish_keys<0>(shrink);
    powers = s;
    due = values;
    ++values.passed;
    while (next_stage()) {
      take_turn();
      multiply_keys();
      add_values();
      pass_turn();
      const bool raised = finish_keys<1>(shrink);
      finish_values();
      if (raised) o.for_each([&](float& x, int r, int) { x *= shrink[r]; });
      powers = s;
      due = values;
      ++values.passed;
    }
    release_keys();
    fence_products();
    add_values();
    finish_values();
  }

  // Whether there is a stage to compute; it is at `keys`. Passes over stages that are none of the
  // warpgroup's.
  __device__ bool next_stage() {
    for (;;) {
      shared.keys_full[keys.slot()].wait(keys.parity());
      const Stage<D>& stage = shared.stages[keys.slot()];
      if (warp_uniform(stage.key[0]) < 0) return false;
      if (warp_uniform(max(stage.mask[group][0], stage.mask[group][1])) != kNotVisited) return true;
      take_turn();
      pass_turn();
      shared.values_full[values.slot()].wait(values.parity());
      release_keys();
      arrive(shared.values_empty[values.slot()]);
      ++values.passed;
    }
  }
  __device__ void release_keys() {
    __syncwarp();
    arrive(shared.keys_empty[keys.slot()]);
    ++keys.passed;
  }

  __device__ void multiply_keys() {
    fence_products();
    multiply_rows<D>(s, shared_address(shared.queries[queries.slot()][group]), kOwnPanel,
                     shared_address(shared.keys[keys.slot()]), kPanel);
    commit_products();
  }
  __device__ void add_values() {
    shared.values_full[due.slot()].wait(due.parity());
    fence_products();
    add_products(o, powers, shared_address(shared.values[due.slot()]), kPanel);
    commit_products();
  }
  __device__ void finish_values() {
    wait_for_products<0>();
    pin(o);
    arrive(shared.values_empty[due.slot()]);
  }

  // S -> powers, added to the sums; whether o has to be scaled by `shrink` before they are used.
  template <int pending>
  __device__ bool finish_keys(float (&shrink)[2]) {
    const Stage<D>& stage = shared.stages[keys.slot()];
    const int mask[2] = {stage.mask[group][0], stage.mask[group][1]};
    const bool masked = warp_uniform(mask[0] != kFullTile || mask[1] != kFullTile);
    std::uint32_t bits[2][4];
    if (masked) load_masks(stage, mask, bits);
    wait_for_products<pending>();
    pin(s);
    const float factor = add_bias(stage);
    release_keys();
    if (masked)
      s.for_each([&](float& x, int r, int column) {
        if (!(bits[r][column / 32] >> (column % 32) & 1u)) x = -kInfinity;
      });
    const bool raised = raise_shifts(factor, shrink);
    float added[2][4] = {};
    s.for_each([&](float& x, int r, int column) {
      x = fast_exp2(fmaf(x, factor, -shift[r]));
      added[r][column / 8 % 4] += x;
    });
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] += (added[r][0] + added[r][1]) + (added[r][2] + added[r][3]);
    return raised;
  }

  // bits[r][w]: which keys of the stage from 32 w + s.column() on the lane's queries may see.
  __device__ void load_masks(const Stage<D>& stage, const int (&mask)[2], std::uint32_t (&bits)[2][4]) const {
    const int row = warp_id() % 4 * 16 + s.row();
    const bool bounded = p.row_bounds || mask[0] == kCutTile || mask[1] == kCutTile;
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        std::uint64_t word = mask[h] == kNotVisited ? 0 : ~std::uint64_t{0};
        if (mask[h] >= 0) word = __ldg(p.masks + mask[h] + (row + 8 * r) * p.words());
        bits[r][2 * h] = static_cast<std::uint32_t>(word) >> s.column();
        bits[r][2 * h + 1] = static_cast<std::uint32_t>(word >> 32) >> s.column();
      }
    if (!bounded) return;
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int w = 0; w < 4; ++w) bits[r][w] &= ranges[r].bits(stage.key[w / 2] + w % 2 * 32) >> s.column();
  }

  // Brings raw products to S + log2 m in units of log 2, if more than the scale is to be applied. Returns the
  // factor, greater than 0, that is left to apply.
  __device__ float add_bias(const Stage<D>& stage) {
    const bool scale_only = !p.slopes && p.log2_scale > 0;
    if (scale_only && (!p.gate || (stage.log2_gate[group][0] == 0 && stage.log2_gate[group][1] == 0)))
      return p.log2_scale;
    s.for_each([&](float& x, int r, int column) {
      const int key = stage.key[column / 64] + column % 64 + s.column();
      x = fmaf(
          x, p.log2_scale,
          stage.log2_gate[group][column / 64] - log2_slope * fabsf(static_cast<float>(query + 8 * r - key)));
    });
    return 1;
  }

  // Lets the shifts follow the maxima of S = factor s, and scales the sums, but for o: that by `shrink`, if
  // true is returned. A NaN is no maximum, and its power is NaN.
  __device__ bool raise_shifts(float factor, float (&shrink)[2]) {
    float greatest[2] = {-kInfinity, -kInfinity};
    s.for_each([&](float& x, int r, int) { greatest[r] = fmaxf(greatest[r], x); });
    bool behind = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      greatest[r] = fmaxf(greatest[r], __shfl_xor_sync(kWholeWarp, greatest[r], 1));
      greatest[r] = factor * fmaxf(greatest[r], __shfl_xor_sync(kWholeWarp, greatest[r], 2));
      behind |= greatest[r] > shift[r] + kSlack;
    }
    if (!__any_sync(kWholeWarp, behind)) return false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float raised = fmaxf(shift[r], greatest[r]);
      shrink[r] = fast_exp2(shift[r] - raised);
      shift[r] = raised;
      sum[r] *= shrink[r];
    }
    return true;
  }

  // A row without keys has o = 0 and lse = -inf. A NaN sum must stay visible, hence no comparison with > 0.
  __device__ void write_result(const Work& work) {
    float lse[2], factor[2];  // lse in units of log 2
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(kWholeWarp, sum[r], 1);
      sum[r] += __shfl_xor_sync(kWholeWarp, sum[r], 2);
      factor[r] = sum[r] == 0 ? 0.0f : __fdividef(1.0f, sum[r]);
      lse[r] = sum[r] == 0 ? -kInfinity : shift[r] + log2f(sum[r]);
    }
    o.for_each([&](float& x, int r, int) { x *= factor[r]; });
    if (work.slot >= 0) return write_segment(work, lse);
    named_sync(3 + group, kWarpgroup);  // the queries, whose place is taken now, have been read
    const std::uint32_t to = shared_address(shared.queries[queries.slot()][group]);
    write_rounded(o, to, kOwnPanel, warp_id() % 4 * 16, [&](int row, int unit, const uint4& x) {
      const int n = work.first + group * kGroupRows + row;
      if (n >= p.N) return;
      const std::int64_t at = (static_cast<std::int64_t>(work.b) * p.N + n) * p.H + work.head;
      *reinterpret_cast<uint4*>(p.o + at * D + unit * 8) = x;
    });
    float* const lse_to = p.lse + (static_cast<std::int64_t>(work.b) * p.H + work.head) * p.N;
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (s.column() == 0 && query + 8 * r < p.N) lse_to[query + 8 * r] = kLn2 * lse[r];
  }

  __device__ void write_segment(const Work& work, const float (&lse)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::int64_t row = static_cast<std::int64_t>(work.slot) * kOwnRows + query - work.first + 8 * r;
      float* const to = p.segment_o + row * D + s.column();
#pragma unroll
      for (int d = 0; d < D / 8; ++d)
        *reinterpret_cast<float2*>(to + 8 * d) = {o.x[d][2 * r], o.x[d][2 * r + 1]};
      if (s.column() == 0) p.segment_lse[row] = lse[r];
    }
  }
};

template <int D>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const __grid_constant__ ForwardProblem p, const __grid_constant__ ForwardMaps maps) {
  extern __shared__ unsigned char memory[];
  Shared<D>& shared = *reinterpret_cast<Shared<D>*>(memory);
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (warpgroup_id() == kGroups) {
    give_registers<kProducerRegisters>();
    if (warp_id() == kConsumerWarps && lane_id() == 0) Copier<D>{p, maps, shared}.run();
    if (warp_id() == kConsumerWarps + 1) Lister<QueryPass>{p, shared.lists}.run(p.H);
  } else {
    take_registers<kConsumerRegisters>();
    Consumer<D>{p, shared}.run();
  }
}

template <int D>
void launch(Context context, const ForwardProblem& p, const ForwardMaps& maps) {
  constexpr int kBytes = sizeof(Shared<D>);
  check_cuda(cudaFuncSetAttribute(forward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  check_cuda(cudaMemsetAsync(p.ticket, 0, sizeof(int), stream(context)));
  const int ctas = std::min(p.n_work, multiprocessors(context));
  forward_kernel<D><<<static_cast<unsigned>(ctas), kThreads, kBytes, stream(context)>>>(p, maps);
  check_launch();
}

}  // namespace
}  // namespace forward_pass

void launch_forward(Context context, const ForwardProblem& p, const ForwardMaps& maps, int D) {
  if (p.n_work == 0) return;
  if (D == 64) return forward_pass::launch<64>(context, p, maps);
  check(D == 128, "attention: the Hopper kernels were given another head dim");
  forward_pass::launch<128>(context, p, maps);
}

}  // namespace filigree::cuda::hopper
