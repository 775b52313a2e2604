// The dq pass of the bf16 backward (backward_bf16.cuh): a CTA owns queries of a tile of a head, or of a
// segment of its row, and streams the keys that they meet:
//   S = Q K^T,  P0 = e^(S - lse),  dP = dO V^T,  dS = m P0 (dP - Delta),  dq += dS K
// and per tile, in one CTA, dm = sum of P0 (dP - Delta).
#include "attention/cuda/backward_bf16.cuh"

namespace filigree::cuda::backward16 {
namespace {

template <int D>
inline constexpr int kResident = D <= 32      ? 3
                                 : kPaired<D> ? 1
                                              : 2;
template <int D>
__device__ void load_round(const Problem& p, const Place& at, const Round& round, int stage, int thread) {
  const int kv_head = at.item.head / (p.H / p.G);
  load_rows<D>(p.k, p.v, at.b, p.M, kv_head, round.first, p.round_rows(), stage_address<D>(p, stage), thread,
               p.own);
  if (round.mask == kFullTile) return;
  const std::int64_t row = static_cast<std::int64_t>(round.mask) * p.tile + at.offset + thread;
  copy_async<8>(&shared_memory().extras[stage].masks[4 * thread],
                p.masks + row * ((p.tile + 63) / 64) + round.part, true);
}

// Which keys each of the own queries may see by its bounds; none for missing queries.
__device__ void load_bounds(const Problem& p, const Place& at) {
  for (int i = static_cast<int>(threadIdx.x); i < p.own; i += static_cast<int>(blockDim.x)) {
    const int query = at.first + i;
    int2 bounds{0, query < p.N ? p.M : 0};
    if (p.row_bounds && query < p.N) {
      const std::int32_t* given = p.row_bounds + 2 * (static_cast<std::int64_t>(at.b) * p.N + query);
      bounds = {max(given[0], 0), max(0, min(given[1], p.M))};
    }
    shared_memory().bounds[i] = bounds;
  }
}

// What `from` [B, H, N] has for the lane's queries, lane / 4 + 8 i of the group; 0 for missing queries.
using RowConstants = float[4];

__device__ void load_constants(const Problem& p, const Place& at, int group, const float* from,
                               RowConstants& to) {
  from += (static_cast<std::int64_t>(at.b) * p.H + at.item.head) * p.N;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int query = at.first + group * kGroup + 8 * i + lane_id() / 4;
    to[i] = query < p.N ? from[query] : 0.0f;
  }
}

// The lane's keys in a block are the two from this one of the block on, and the two 8 further on.
__device__ int lane_key() {
  return lane_id() % 4 * 2;
}

template <int blocks>
__device__ void add_alibi(const Problem& p, const Place& at, int group, const Round& round, int block,
                          Scores<blocks>& exponents) {
  const float slope = p.slopes[at.item.head] * kLog2E;
  const int distance =
      at.first + group * kGroup + lane_id() / 4 - (round.first + block * kBlock + lane_key());
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 2 * blocks; ++j)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& x = exponents[i / 2][j][i % 2 * 2 + c];
        x = fmaf(-slope, static_cast<float>(abs(distance + 8 * i - 8 * j - c)), x);
      }
}

// -inf where the pair is not allowed.
template <int blocks>
__device__ void forbid(int group, const Round& round, int stage, int block, Scores<blocks>& exponents) {
  const bool masked = round.mask != kFullTile, bounded = round.flags & kBounded;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = group * kGroup + 8 * i + lane_id() / 4;
    const int2 bounds = shared_memory().bounds[row];
#pragma unroll
    for (int b = 0; b < blocks; ++b) {
      std::uint32_t allowed = masked ? shared_memory().extras[stage].masks[4 * row + block + b] : 0xffffu;
      if (bounded) allowed &= keys_within(bounds, round.first + (block + b) * kBlock);
      allowed >>= lane_key();
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c)
          if (!(allowed >> (8 * j + c) & 1u)) exponents[i / 2][2 * b + j][i % 2 * 2 + c] = -kInfinity;
    }
  }
}

// Q K^T -> P0, of `blocks` blocks of keys from `block` on.
template <bool kGeneralRound, int blocks>
__device__ void probabilities(const Problem& p, const Place& at, int group, const RowConstants& log2_sums,
                              const Round& round, int stage, int block, Scores<blocks>& s) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int j = 0; j < 2 * blocks; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        s[half][j][i] = fmaf(s[half][j][i], p.log2_scale, -log2_sums[2 * half + i / 2]);
  if constexpr (kGeneralRound) {
    if (p.slopes) add_alibi<blocks>(p, at, group, round, block, s);
    if (round.mask != kFullTile || (round.flags & kBounded)) forbid<blocks>(group, round, stage, block, s);
    raise_cut<blocks>(1, s);
  } else {
    raise<blocks>(s);
  }
}

// dP -> dS; P0 (dP - Delta) is added to gate_sum.
template <bool kGeneralRound, int blocks>
__device__ void score_gradients(const RowConstants& deltas, float gate, const Scores<blocks>& p0,
                                Scores<blocks>& dp, float& gate_sum) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int j = 0; j < 2 * blocks; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& x = dp[half][j][i];
        x = p0[half][j][i] * (x - deltas[2 * half + i / 2]);
        if constexpr (kGeneralRound) {
          gate_sum += x;
          x *= gate;
        }
      }
}

// D <= 64: one warp does everything for its queries.
template <int D>
struct WholeWarp {
  static constexpr int kBlocks = 2;  // at a time
  OwnRows<D> q, o_grad;
  Sums<D> q_grad;
  RowConstants log2_sums, deltas;
  float gate_sum = 0;

  __device__ void begin(const Problem& p, const Place& at, Role role) {
    const std::uint32_t own =
        own_address<D>(p) + static_cast<std::uint32_t>(role.group * kGroup * kRowBytes<D>);
    load_own<D>(q, own);
    load_own<D>(o_grad, own + 2 * D);
    zero<D>(q_grad);
    load_constants(p, at, role.group, p.log2_sum, log2_sums);
    load_constants(p, at, role.group, p.delta, deltas);
  }

  template <bool kGeneralRound>
  __device__ void add(const Problem& p, const Place& at, Role role, const Round& round, int stage,
                      const Cursor& cursor) {
    Scores<kBlocks> s = {}, ds = {};
    RoundedScores<kBlocks> rounded;
    multiply_own<D, kBlocks>(q, cursor.down, s);
    multiply_own<D, kBlocks>(o_grad, cursor.down + 2 * D, ds);
    probabilities<kGeneralRound, kBlocks>(p, at, role.group, log2_sums, round, stage, cursor.block, s);
    score_gradients<kGeneralRound, kBlocks>(deltas, round.gate, s, ds, gate_sum);
    round_scores<kBlocks>(ds, rounded);
    add_weighted<D, kBlocks>(rounded, cursor.across, q_grad);
  }

  __device__ void end(const Problem& p, const Place& at, Role role, const Segments& segments) {
    write_result<D>(p, at, role.group, q_grad, p.scale, p.q_grad, segments, 0, p.N);
  }
};

// D > 64: the P warp has Q, the dS warp dO and dq.
template <int D>
struct WarpOfPair {
  static constexpr int kBlocks = 1;
  OwnRows<D> own;
  Sums<D> q_grad;
  RowConstants constants;  // log2_sum or delta
  float gate_sum = 0;

  __device__ void begin(const Problem& p, const Place& at, Role role) {
    load_own<D>(own, own_address<D>(p) + static_cast<std::uint32_t>(role.group * kGroup * kRowBytes<D> +
                                                                    (role.computes_ds ? 2 * D : 0)));
    zero<D>(q_grad);
    load_constants(p, at, role.group, role.computes_ds ? p.delta : p.log2_sum, constants);
    if (role.computes_ds) arrive_at(buffer_free(role.group));
  }

  template <bool kGeneralRound>
  __device__ void add(const Problem& p, const Place& at, Role role, const Round& round, int stage,
                      const Cursor& cursor) {
    Scores<1> s = {};
    RoundedScores<1> rounded;
    multiply_own<D, 1>(own, cursor.down + (role.computes_ds ? 2 * D : 0), s);
    if (role.computes_ds) {
      Scores<1> p0;
      receive(role.group, rounded);
      widen_scores<1>(rounded, p0);
      score_gradients<kGeneralRound, 1>(constants, round.gate, p0, s, gate_sum);
      round_scores<1>(s, rounded);
      add_weighted<D, 1>(rounded, cursor.across, q_grad);
    } else {
      probabilities<kGeneralRound, 1>(p, at, role.group, constants, round, stage, cursor.block, s);
      round_scores<1>(s, rounded);
      send(role.group, rounded);
    }
  }

  __device__ void end(const Problem& p, const Place& at, Role role, const Segments& segments) {
    if (role.computes_ds)
      write_result<D>(p, at, role.group, q_grad, p.scale, p.q_grad, segments, 0, p.N);
    else
      wait_at(buffer_free(role.group));
  }
};

template <int D, bool kGeneralRound, class Warp>
__device__ void add_round(const Problem& p, const Place& at, Role role, const Round& round, int stage,
                          Warp& warp) {
  const auto add = [&](const Cursor& cursor) {
    warp.template add<kGeneralRound>(p, at, role, round, stage, cursor);
  };
  for_each_block<D, kGeneralRound, Warp::kBlocks>(stage_address<D>(p, stage),
                                                  min(p.round_rows(), p.M - round.first),
                                                  round.blocks >> (at.offset / kGroup + role.group), add);
}

// The group's share of a tile's gate gradient.
__device__ void leave_gate_sum(int group, int place, float& gate_sum) {
#pragma unroll
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2)
    gate_sum += __shfl_xor_sync(kWholeWarp, gate_sum, lanes);
  if (lane_id() == 0) shared_memory().gate_sums[place][group] = gate_sum;
  gate_sum = 0;
}

// After a barrier: the sum over groups, if `round` was its tile's last.
__device__ void write_gate_gradient(const Problem& p, const Place& at, const Round& round, int place) {
  if (!p.gate_grad || !(round.flags & kLastOfTile) || threadIdx.x != 0) return;
  float sum = 0;
  for (int group = 0; group < p.own / kGroup; ++group) sum += shared_memory().gate_sums[place][group];
  p.gate_grad[at.b * p.gate_size + p.gate_base[at.item.head] + round.tile] = sum;
}

template <int D>
__global__ void __launch_bounds__(kMaxThreads<D>, kResident<D>)
    query_gradients_kernel(const __grid_constant__ Problem p, const WorkItem* items, Segments segments) {
  Shared& shared = shared_memory();
  if (threadIdx.x == 0) shared.at = place_of_cta(p, items);
  __syncthreads();
  const Place& at = shared.at;
  if (at.first >= p.N) return;
  load_rows<D>(p.q, p.o_grad, at.b, p.N, at.item.head, at.first, p.own, own_address<D>(p),
               static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
  commit_copies();
  load_bounds(p, at);
  const int n_rounds = list_rounds<true>(p, at, [&](int t) {
    return Tile{t, p.columns[t], at.item.head, 1};
  });
  const Role role = role_of_warp<D>(p, at);
  const auto load = [&](int r) {
    if (role.computes_ds && r < n_rounds) load_round<D>(p, at, shared.rounds[r], r % 2, loading_thread(p));
    commit_copies();
  };
  load(0);
  wait_for_copies<1>();
  __syncthreads();

  std::conditional_t<kPaired<D>, WarpOfPair<D>, WholeWarp<D>> warp;
  warp.begin(p, at, role);
#pragma unroll 1
  for (int r = 0; r < n_rounds; ++r) {
    wait_for_copies<0>();
    __syncthreads();
    if (r > 0) write_gate_gradient(p, at, shared.rounds[r - 1], (r - 1) % 2);
    load(r + 1);
    const Round& round = shared.rounds[r];
    if (round.flags & kGeneral)
      add_round<D, true>(p, at, role, round, r % 2, warp);
    else
      add_round<D, false>(p, at, role, round, r % 2, warp);
    if (p.gate_grad && (round.flags & kLastOfTile) && role_of_warp<D>(p, at).computes_ds)
      leave_gate_sum(role.group, r % 2, warp.gate_sum);
  }
  __syncthreads();
  if (n_rounds > 0) write_gate_gradient(p, at, shared.rounds[n_rounds - 1], (n_rounds - 1) % 2);
  warp.end(p, at, role, segments);
}

}  // namespace

void query_gradients(Context context, const Problem& p, int D, const WorkList& work) {
  Tensor room = segment_room(context, p, D, work, 1);
  const Segments segments{data_or_null<float>(room), 1};
  with_head_dim(
      D, [&](auto dim) { launch_pass<dim()>(context, p, query_gradients_kernel<dim()>, work, segments); });
  add_segments(context, p, D, work, segments, 0, p.q_grad, p.N);
}

}  // namespace filigree::cuda::backward16
