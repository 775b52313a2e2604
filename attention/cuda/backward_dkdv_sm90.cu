// The dk, dv pass of the bf16 backward on Hopper (backward_sm90.cuh): a warpgroup owns 64 keys, in steps of
// 64 queries
//   S^T = K Q^T,  P^T = m e^(S^T - lse),  dv += P^T dO,  dP^T = V dO^T,  dS^T = P^T (dP^T - Delta),  dk +=
//   dS^T Q
// The tensor cores have dP^T to do while P is computed, and dv while dS is.
#include "attention/cuda/backward_sm90.cuh"

namespace filigree::cuda::backward16::hopper {
namespace {

template <int D>
__device__ void load_visit(const Problem& p, const Maps& maps, const Room<D>& room, Barriers& barriers,
                           int v) {
  const Shared& shared = shared_memory();
  const Visit& visit = shared.visits[v];
  const int i = static_cast<int>(threadIdx.x);
  if (i == 0)
    load_matrices<D>(room, maps.q, maps.o_grad, shared.at.b, visit.head, visit.first, room.streamed(v % 2, 0),
                     room.streamed(v % 2, 1), barriers.streamed[v % 2]);
  if (i >= p.tile) return;
  const StepExtras extras = room.extras_of(v % 2);
  load_query_extras(p, visit, i, extras);
  load_mask_row(p, visit, i, extras);
}

// A step of a visit: queries of the tile from `query` on.
struct Step {
  const Visit& visit;
  int query;
  StepExtras extras;
};

__device__ void add_alibi(const Problem& p, const Step& at, Scores& exponents) {
  const float slope = p.slopes[at.visit.head] * kLog2E;
  const int key = shared_memory().at.first + warpgroup_id() * kStep + lane_row();
  const int distance = at.visit.first + at.query + lane_column() - key;
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      exponents[n][i] =
          fmaf(-slope, static_cast<float>(abs(distance + 8 * n + i % 2 - i / 2 * 8)), exponents[n][i]);
}

// -inf where the pair is not allowed.
__device__ void forbid(const Problem& p, const Step& at, Scores& exponents) {
  const bool masked = at.visit.mask != kFullTile, bounded = at.visit.flags & kBounded;
  const auto* masks = reinterpret_cast<const std::uint32_t*>(at.extras.masks);
  const int words = 2 * p.mask_words(), own = warpgroup_id() * kStep + lane_row();
  const int first_key = shared_memory().at.first + own / 32 * 32;
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int query = at.query + 8 * n + lane_column() + c;
      std::uint32_t allowed = masked ? masks[words * query + own / 32] : ~0u;
      if (bounded) {
        const int2 bounds = at.extras.bounds[query];
        allowed &= keys_within({max(bounds.x, 0), max(bounds.y, 0)}, first_key);
      }
      allowed >>= own % 32;
      if (!(allowed & 1u)) exponents[n][c] = -kInfinity;
      if (!(allowed & 0x100u)) exponents[n][2 + c] = -kInfinity;
    }
}

// K Q^T -> P^T
template <bool kGeneralVisit>
__device__ void probabilities(const Problem& p, const Step& at, Scores& s) {
  const float* const log2_sums = at.extras.log2_sum + at.query + lane_column();
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n) {
    const float2 log2_sum = *reinterpret_cast<const float2*>(log2_sums + 8 * n);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float exponent = fmaf(s[n][i], p.log2_scale, -(i % 2 ? log2_sum.y : log2_sum.x));
      s[n][i] = kGeneralVisit ? exponent : fast_exp2(exponent);
    }
  }
  if constexpr (kGeneralVisit) {
    if (p.slopes) add_alibi(p, at, s);
    if (at.visit.mask != kFullTile || (at.visit.flags & kBounded)) forbid(p, at, s);
    raise_cut(at.visit.gate, s);
  }
}

// dP^T -> dS^T. From the rounded P^T, which is in registers anyway.
__device__ void score_gradients(const RoundedScores& p, const Step& at, Scores& dp) {
  const float* const deltas = at.extras.delta + at.query + lane_column();
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n) {
    const float2 delta = *reinterpret_cast<const float2*>(deltas + 8 * n);
#pragma unroll
    for (int i = 0; i < 4; ++i) dp[n][i] = element(p, n, i) * (dp[n][i] - (i % 2 ? delta.y : delta.x));
  }
}

template <int D>
struct KeyGradients {
  Sums<D> k_grad, v_grad;

  __device__ void add(const Problem& p, const Room<D>& room, int stage, const Step& at) {
    const std::uint32_t panel = room.panel_bytes();
    const std::uint32_t own = static_cast<std::uint32_t>(warpgroup_id() * kStep * kPanelRowBytes);
    const std::uint32_t step = static_cast<std::uint32_t>(at.query * kPanelRowBytes);
    const std::uint32_t q = room.streamed(stage, 0) + step, o_grad = room.streamed(stage, 1) + step;
    Scores s, ds;
    RoundedScores rounded_p, rounded_ds;
    fence_products();
    multiply_rows<D>(s, operand(room.own(0) + own), panel, operand(q), panel);
    commit_products();
    multiply_rows<D>(ds, operand(room.own(1) + own), panel, operand(o_grad), panel);
    commit_products();
    wait_for_products<1>();
    pin(s);
    if (at.visit.flags & kGeneral)
      probabilities<true>(p, at, s);
    else
      probabilities<false>(p, at, s);
    round_to_operand(s, rounded_p);
    fence_products();
    add_products(v_grad, rounded_p, operand(o_grad, panel));
    commit_products();
    wait_for_products<1>();
    pin(ds);
    score_gradients(rounded_p, at, ds);
    round_to_operand(ds, rounded_ds);
    fence_products();
    add_products(k_grad, rounded_ds, operand(q, panel));
    commit_products();
    wait_for_products<0>();
    pin(k_grad);
    pin(v_grad);
  }
};

template <int D>
__global__ void __launch_bounds__(kThreadsAtOnce<D>, 1)
    key_gradients_kernel(const __grid_constant__ Problem p, const __grid_constant__ Maps maps,
                         const WorkItem* items, Segments segments) {
  __shared__ Barriers barriers;
  if (threadIdx.x == 0) init(barriers);
  find_place(p, items, p.G);
  const Place& at = shared_memory().at;
  const Room<D> room(p.tile);
  if (threadIdx.x == 0)
    load_matrices<D>(room, maps.k, maps.v, at.b, at.item.head, at.first, room.own(0), room.own(1),
                     barriers.own);
  const int n_visits = list_visits<false>(p, at);
  if (n_visits > 0) load_visit<D>(p, maps, room, barriers, 0);
  commit_copies();

  KeyGradients<D> sums;
  clear<D>(sums.k_grad);
  clear<D>(sums.v_grad);
  const auto add = [&](int v, int step) {
    sums.add(p, room, v % 2, {shared_memory().visits[v], step * kStep, room.extras_of(v % 2)});
  };
  visit_tiles(
      p, n_visits, p.N, barriers, [&](int v) { load_visit<D>(p, maps, room, barriers, v); }, [](int) {}, add,
      [](int) {});
  pin(sums.k_grad);
  pin(sums.v_grad);
  write_result<D>(p, room, sums.k_grad, p.scale, p.k_grad, segments, 0, p.M);
  write_result<D>(p, room, sums.v_grad, 1, p.v_grad, segments, 1, p.M);
}

}  // namespace

void key_gradients(Context context, const Problem& p, const Maps& maps, int D, const WorkList& work) {
  Tensor room = segment_room(context, p, D, work, 2);
  const Segments segments{data_or_null<float>(room), 2};
  with_head_dim(D, [&](auto dim) {
    launch_pass<dim()>(context, p, maps, key_gradients_kernel<dim()>, work, segments);
  });
  add_segments(context, p, D, work, segments, 0, p.k_grad, p.G, p.M);
  add_segments(context, p, D, work, segments, 1, p.v_grad, p.G, p.M);
}

}  // namespace filigree::cuda::backward16::hopper
