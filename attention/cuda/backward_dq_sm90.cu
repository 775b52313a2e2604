// The dq pass of the bf16 backward on Hopper (backward_sm90.cuh): a warpgroup owns 64 queries, in steps of 64
// keys
//   S = Q K^T,  P0 = e^(S - lse),  dP = dO V^T,  dS = m P0 (dP - Delta),  dq += dS K
// and, each tile being visited by one CTA, dm = the sum of P0 (dP - Delta) over the tile.
#include "attention/cuda/backward_sm90.cuh"

namespace filigree::cuda::backward16::hopper {
namespace {

template <int D>
__device__ void load_visit(const Problem& p, const Maps& maps, const Room<D>& room, Barriers& barriers,
                           int v) {
  const Shared& shared = shared_memory();
  const Visit& visit = shared.visits[v];
  const int head = shared.at.item.head / (p.H / p.G);
  if (threadIdx.x == 0)
    load_matrices<D>(room, maps.k, maps.v, shared.at.b, head, visit.first, room.streamed(v % 2, 0),
                     room.streamed(v % 2, 1), barriers.streamed[v % 2]);
  const int i = static_cast<int>(threadIdx.x);
  if (i < p.tile) load_mask_row(p, visit, i, room.extras_of(v % 2));
}

// The lane's two queries, and a step of a visit: keys of the tile from `key` on.
struct Step {
  const Visit& visit;
  int key;
  StepExtras extras;
};
struct LaneQueries {
  float log2_sum[2], delta[2];  // 0 for missing queries
  int2 bounds[2];               // keys that they may see; none for missing queries

  __device__ explicit LaneQueries(const Problem& p) {
    const Place& at = shared_memory().at;
    const std::int64_t row = p.constants_of(at.b, at.item.head);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = at.first + warpgroup_id() * kStep + lane_row() + 8 * i;
      const bool valid = query < p.N;
      log2_sum[i] = valid ? p.log2_sum[row + query] : 0.0f;
      delta[i] = valid ? p.delta[row + query] : 0.0f;
      bounds[i] = {0, valid ? p.M : 0};
      if (!p.row_bounds || !valid) continue;
      const std::int32_t* given = p.row_bounds + 2 * (static_cast<std::int64_t>(at.b) * p.N + query);
      bounds[i] = {max(given[0], 0), max(0, min(given[1], p.M))};
    }
  }
};

__device__ void add_alibi(const Problem& p, const Step& at, Scores& exponents) {
  const Place& place = shared_memory().at;
  const float slope = p.slopes[place.item.head] * kLog2E;
  const int query = place.first + warpgroup_id() * kStep + lane_row();
  const int distance = query - (at.visit.first + at.key + lane_column());
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      exponents[n][i] =
          fmaf(-slope, static_cast<float>(abs(distance + i / 2 * 8 - 8 * n - i % 2)), exponents[n][i]);
}

// -inf where the pair is not allowed.
__device__ void forbid(const Problem& p, const LaneQueries& queries, const Step& at, Scores& exponents) {
  const bool masked = at.visit.mask != kFullTile, bounded = at.visit.flags & kBounded;
  const auto* masks = reinterpret_cast<const std::uint32_t*>(at.extras.masks);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = warpgroup_id() * kStep + lane_row() + 8 * i;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = at.key + 32 * half;
      std::uint32_t allowed = masked ? masks[2 * p.mask_words() * row + key / 32] : ~0u;
      if (bounded) allowed &= keys_within(queries.bounds[i], at.visit.first + key);
      allowed >>= lane_column();
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c)
          if (!(allowed >> (8 * n + c) & 1u)) exponents[4 * half + n][2 * i + c] = -kInfinity;
    }
  }
}

// Q K^T -> P0
template <bool kGeneralVisit>
__device__ void probabilities(const Problem& p, const LaneQueries& queries, const Step& at, Scores& s) {
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float exponent = fmaf(s[n][i], p.log2_scale, -queries.log2_sum[i / 2]);
      s[n][i] = kGeneralVisit ? exponent : fast_exp2(exponent);
    }
  if constexpr (kGeneralVisit) {
    if (p.slopes) add_alibi(p, at, s);
    if (at.visit.mask != kFullTile || (at.visit.flags & kBounded)) forbid(p, queries, at, s);
    raise_cut(1, s);
  }
}

template <int D>
struct QueryGradients {
  Sums<D> q_grad;
  LaneQueries queries;
  float gate_sum = 0;

  // dP -> dS; P0 (dP - Delta) is added to gate_sum.
  template <bool kGeneralVisit>
  __device__ void score_gradients(const Scores& p0, float gate, Scores& dp) {
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& x = dp[n][i];
        x = p0[n][i] * (x - queries.delta[i / 2]);
        if constexpr (kGeneralVisit) {
          gate_sum += x;
          x *= gate;
        }
      }
  }

  template <bool kGeneralVisit>
  __device__ void add(const Problem& p, const Room<D>& room, int stage, const Step& at) {
    const std::uint32_t panel = room.panel_bytes();
    const std::uint32_t own = static_cast<std::uint32_t>(warpgroup_id() * kStep * kPanelRowBytes);
    const std::uint32_t step = static_cast<std::uint32_t>(at.key * kPanelRowBytes);
    const std::uint32_t k = room.streamed(stage, 0) + step, v = room.streamed(stage, 1) + step;
    Scores s, ds;
    RoundedScores rounded;
    fence_products();
    multiply_rows<D>(s, operand(room.own(0) + own), panel, operand(k), panel);
    commit_products();
    multiply_rows<D>(ds, operand(room.own(1) + own), panel, operand(v), panel);
    commit_products();
    wait_for_products<1>();
    pin(s);
    probabilities<kGeneralVisit>(p, queries, at, s);
    wait_for_products<0>();
    pin(ds);
    score_gradients<kGeneralVisit>(s, at.visit.gate, ds);
    round_to_operand(ds, rounded);
    fence_products();
    add_products(q_grad, rounded, operand(k, panel));
    commit_products();
  }

  // Writes the gate gradient of the visit before, which all warps have left their shares of.
  __device__ void write_gate_gradient(const Problem& p, int v) const {
    if (!p.gate_grad || v == 0 || threadIdx.x != 0) return;
    const Shared& shared = shared_memory();
    float sum = 0;
    for (int w = 0; w < p.tile / 16; ++w) sum += shared.gate_sums[(v - 1) % 2][w];
    p.gate_grad[shared.at.b * p.gate_size + p.gate_base[p.layout_head(shared.at.b, shared.at.item.head)] +
                shared.visits[v - 1].number] = sum;
  }

  // Leaves the warp's share.
  __device__ void leave_gate_sum(const Problem& p, int v) {
    if (!p.gate_grad) return;
#pragma unroll
    for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2)
      gate_sum += __shfl_xor_sync(kWholeWarp, gate_sum, lanes);
    if (lane_id() == 0) shared_memory().gate_sums[v % 2][warp_id()] = gate_sum;
    gate_sum = 0;
  }
};

template <int D>
__global__ void __launch_bounds__(kThreadsAtOnce<D>, 1)
    query_gradients_kernel(const __grid_constant__ Problem p, const __grid_constant__ Maps maps,
                           const WorkItem* items, Segments segments) {
  __shared__ Barriers barriers;
  if (threadIdx.x == 0) init(barriers);
  find_place(p, items, p.H);
  const Place& at = shared_memory().at;
  const Room<D> room(p.tile);
  if (threadIdx.x == 0)
    load_matrices<D>(room, maps.q, maps.o_grad, at.b, at.item.head, at.first, room.own(0), room.own(1),
                     barriers.own);
  const int n_visits = list_visits<true>(p, at);
  if (n_visits > 0) load_visit<D>(p, maps, room, barriers, 0);
  commit_copies();

  QueryGradients<D> sums{{}, LaneQueries(p)};
  clear<D>(sums.q_grad);
  const auto add = [&](int v, int step) {
    const Step now{shared_memory().visits[v], step * kStep, room.extras_of(v % 2)};
    if (now.visit.flags & kGeneral)
      sums.template add<true>(p, room, v % 2, now);
    else
      sums.template add<false>(p, room, v % 2, now);
  };
  visit_tiles(
      p, n_visits, p.M, barriers, [&](int v) { load_visit<D>(p, maps, room, barriers, v); },
      [&](int v) { sums.write_gate_gradient(p, v); }, add, [&](int v) { sums.leave_gate_sum(p, v); });
  sums.write_gate_gradient(p, n_visits);
  pin(sums.q_grad);
  write_result<D>(p, room, sums.q_grad, p.scale, p.q_grad, segments, 0, p.N);
}

}  // namespace

void query_gradients(Context context, const Problem& p, const Maps& maps, int D, const WorkList& work) {
  Tensor room = segment_room(context, p, D, work, 1);
  const Segments segments{data_or_null<float>(room), 1};
  with_head_dim(D, [&](auto dim) {
    launch_pass<dim()>(context, p, maps, query_gradients_kernel<dim()>, work, segments);
  });
  add_segments(context, p, D, work, segments, 0, p.q_grad, p.H, p.N);
}

}  // namespace filigree::cuda::backward16::hopper
