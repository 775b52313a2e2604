// The dk, dv pass of the bf16 backward (backward_bf16.cuh): a CTA owns keys of a tile of a kv head, or of a
// segment of its column, and streams the queries of all heads of the group that meet them:
//   S^T = K Q^T,  P^T = m e^(S^T - lse),  dv += P^T dO,  dP^T = V dO^T,  dS^T = P^T (dP^T - Delta),  dk +=
//   dS^T Q
// So P and dS are already what the sums need as their left operand, and rows that are missing from the last
// tiles, which are read as zeros, add nothing.
#include "attention/cuda/backward_bf16.cuh"

namespace filigree::cuda::backward16 {
namespace {

template <int D>
inline constexpr int kResident = D <= 32      ? 3
                                 : kPaired<D> ? 1
                                              : 2;

// Entry i of the item: the columns of the group's heads lie behind each other.
__device__ Tile tile_of_column(const Problem& p, const Place& at, int i) {
  int head = at.item.head * (p.H / p.G);
  for (;; ++head) {
    const std::int32_t* offsets =
        p.col_offsets + static_cast<std::int64_t>(p.head_pattern[head]) * (p.key_tiles + 1) + at.item.tile;
    const int begin = offsets[0], entries = offsets[1] - begin;
    if (i < entries) return {p.tile_of[begin + i], p.rows[begin + i], head, 1};
    i -= entries;
  }
}

template <int D>
__device__ void load_round(const Problem& p, const Place& at, const Round& round, int stage, int thread) {
  const int rows = p.round_rows();
  load_rows<D>(p.q, p.o_grad, at.b, p.N, round.head, round.first, rows, stage_address<D>(p, stage), thread,
               p.own);
  auto& extras = shared_memory().extras[stage].of_queries;
  const std::int64_t first = (static_cast<std::int64_t>(at.b) * p.H + round.head) * p.N + round.first;
  for (int i = thread; i < rows; i += p.own) {
    const bool valid = round.first + i < p.N;
    copy_async<4>(&extras.log2_sum[i], p.log2_sum + first + i, valid);
    copy_async<4>(&extras.delta[i], p.delta + first + i, valid);
    if (round.flags & kBounded)
      copy_async<8>(&extras.bounds[i],
                    p.row_bounds + 2 * (static_cast<std::int64_t>(at.b) * p.N + round.first + i), valid);
    if (round.mask == kFullTile) continue;
    const std::int64_t row = static_cast<std::int64_t>(round.mask) * p.tile + round.part * rows + i;
    if (p.tile == kMaxOwn)
      copy_async<16>(&extras.masks[4 * i], p.masks + 2 * row, true);
    else
      copy_async<8>(&extras.masks[2 * i], p.masks + row, true);
  }
}

// The lane's queries in a block of scores: in products j = 0 and 1, this one and the next. Its keys are
// lane / 4 + 8 i of the group.
__device__ int lane_query(int block, int j) {
  return block * kBlock + j * 8 + lane_id() % 4 * 2;
}

__device__ void add_alibi(const Problem& p, const Place& at, int group, const Round& round, int block,
                          Scores<1>& exponents) {
  const float slope = p.slopes[round.head] * kLog2E;
  const int distance = round.first + lane_query(block, 0) - (at.first + group * kGroup + lane_id() / 4);
#pragma unroll
  for (int j = 0; j < 2; ++j)
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& x = exponents[i / 2][j][i % 2 * 2 + c];
        x = fmaf(-slope, static_cast<float>(abs(distance + 8 * j + c - 8 * i)), x);
      }
}

// -inf where the pair is not allowed.
__device__ void forbid(const Problem& p, const Place& at, int group, const Round& round, int stage, int block,
                       Scores<1>& exponents) {
  const auto& extras = shared_memory().extras[stage].of_queries;
  const bool masked = round.mask != kFullTile, bounded = round.flags & kBounded;
  const int words = p.tile == kMaxOwn ? 4 : 2, first_key = group * kGroup;  // of the CTA's own
#pragma unroll
  for (int j = 0; j < 2; ++j)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int row = lane_query(block, j) + c;
      std::uint32_t allowed = ~0u;
      if (masked) allowed = extras.masks[words * row + (at.offset + first_key) / 32];
      if (bounded) {
        const int2 bounds = extras.bounds[row];
        allowed &= keys_within({max(bounds.x, 0), max(bounds.y, 0)}, at.first + first_key);
      }
      allowed >>= lane_id() / 4;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (!(allowed >> (8 * i) & 1u)) exponents[i / 2][j][i % 2 * 2 + c] = -kInfinity;
    }
}

// K Q^T -> P^T, of one block of queries.
template <bool kGeneralRound>
__device__ void probabilities(const Problem& p, const Place& at, int group, const Round& round, int stage,
                              int block, Scores<1>& s) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float2 log2_sums = *reinterpret_cast<const float2*>(
        shared_memory().extras[stage].of_queries.log2_sum + lane_query(block, j));
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        s[half][j][i] = fmaf(s[half][j][i], p.log2_scale, i % 2 ? -log2_sums.y : -log2_sums.x);
  }
  if constexpr (kGeneralRound) {
    if (p.slopes) add_alibi(p, at, group, round, block, s);
    if (round.mask != kFullTile || (round.flags & kBounded)) forbid(p, at, group, round, stage, block, s);
    raise_cut<1>(round.gate, s);
  } else {
    raise<1>(s);
  }
}

// dP^T -> dS^T.
__device__ void score_gradients(const Scores<1>& p, int stage, int block, Scores<1>& dp) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float2 deltas = *reinterpret_cast<const float2*>(shared_memory().extras[stage].of_queries.delta +
                                                           lane_query(block, j));
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        dp[half][j][i] = p[half][j][i] * (dp[half][j][i] - (i % 2 ? deltas.y : deltas.x));
  }
}

// D <= 64: one warp does everything for its keys.
template <int D>
struct WholeWarp {
  OwnRows<D> k, v;
  Sums<D> k_grad, v_grad;

  __device__ void begin(const Problem& p, Role role) {
    const std::uint32_t own =
        own_address<D>(p) + static_cast<std::uint32_t>(role.group * kGroup * kRowBytes<D>);
    load_own<D>(k, own);
    load_own<D>(v, own + 2 * D);
    zero<D>(k_grad);
    zero<D>(v_grad);
  }

  template <bool kGeneralRound>
  __device__ void add(const Problem& p, const Place& at, Role role, const Round& round, int stage,
                      const Cursor& cursor) {
    Scores<1> s = {}, ds = {};
    RoundedScores<1> rounded;
    multiply_own<D, 1>(k, cursor.down, s);
    multiply_own<D, 1>(v, cursor.down + 2 * D, ds);
    probabilities<kGeneralRound>(p, at, role.group, round, stage, cursor.block, s);
    round_scores<1>(s, rounded);
    add_weighted<D, 1>(rounded, cursor.across + 2 * D, v_grad);
    score_gradients(s, stage, cursor.block, ds);
    round_scores<1>(ds, rounded);
    add_weighted<D, 1>(rounded, cursor.across, k_grad);
  }

  __device__ void end(const Problem& p, const Place& at, Role role, const Segments& segments) {
    write_result<D>(p, at, role.group, k_grad, p.scale, p.k_grad, segments, 0, p.M);
    write_result<D>(p, at, role.group, v_grad, 1, p.v_grad, segments, 1, p.M);
  }
};

// D > 64: the P warp has K and dv, the dS warp V and dk.
template <int D>
struct WarpOfPair {
  OwnRows<D> own;
  Sums<D> sums;

  __device__ void begin(const Problem& p, Role role) {
    load_own<D>(own, own_address<D>(p) + static_cast<std::uint32_t>(role.group * kGroup * kRowBytes<D> +
                                                                    (role.computes_ds ? 2 * D : 0)));
    zero<D>(sums);
    if (role.computes_ds) arrive_at(buffer_free(role.group));
  }

  template <bool kGeneralRound>
  __device__ void add(const Problem& p, const Place& at, Role role, const Round& round, int stage,
                      const Cursor& cursor) {
    Scores<1> s = {};
    RoundedScores<1> rounded;
    multiply_own<D, 1>(own, cursor.down + (role.computes_ds ? 2 * D : 0), s);
    if (role.computes_ds) {
      Scores<1> probability;
      receive(role.group, rounded);
      widen_scores<1>(rounded, probability);
      score_gradients(probability, stage, cursor.block, s);
      round_scores<1>(s, rounded);
    } else {
      probabilities<kGeneralRound>(p, at, role.group, round, stage, cursor.block, s);
      round_scores<1>(s, rounded);
      send(role.group, rounded);
    }
    add_weighted<D, 1>(rounded, cursor.across + (role.computes_ds ? 0 : 2 * D), sums);
  }

  __device__ void end(const Problem& p, const Place& at, Role role, const Segments& segments) {
    if (role.computes_ds) {
      write_result<D>(p, at, role.group, sums, p.scale, p.k_grad, segments, 0, p.M);
    } else {
      wait_at(buffer_free(role.group));
      write_result<D>(p, at, role.group, sums, 1, p.v_grad, segments, 1, p.M);
    }
  }
};

template <int D, bool kGeneralRound, class Warp>
__device__ void add_round(const Problem& p, const Place& at, Role role, const Round& round, int stage,
                          Warp& warp) {
  const auto add = [&](const Cursor& cursor) {
    warp.template add<kGeneralRound>(p, at, role, round, stage, cursor);
  };
  for_each_block<D, kGeneralRound, 1>(stage_address<D>(p, stage), min(p.round_rows(), p.N - round.first),
                                      round.blocks >> (at.offset / kGroup + role.group), add);
}

template <int D>
__global__ void __launch_bounds__(kMaxThreads<D>, kResident<D>)
    key_gradients_kernel(const __grid_constant__ Problem p, const WorkItem* items, Segments segments) {
  Shared& shared = shared_memory();
  if (threadIdx.x == 0) shared.at = place_of_cta(p, items);
  __syncthreads();
  const Place& at = shared.at;
  if (at.first >= p.M) return;
  load_rows<D>(p.k, p.v, at.b, p.M, at.item.head, at.first, p.own, own_address<D>(p),
               static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
  commit_copies();
  const int n_rounds = list_rounds<false>(p, at, [&](int i) { return tile_of_column(p, at, i); });
  const Role role = role_of_warp<D>(p, at);
  const auto load = [&](int r) {
    if (role.computes_ds && r < n_rounds) load_round<D>(p, at, shared.rounds[r], r % 2, loading_thread(p));
    commit_copies();
  };
  load(0);
  wait_for_copies<1>();
  __syncthreads();

  std::conditional_t<kPaired<D>, WarpOfPair<D>, WholeWarp<D>> warp;
  warp.begin(p, role);
#pragma unroll 1
  for (int r = 0; r < n_rounds; ++r) {
    wait_for_copies<0>();
    __syncthreads();
    load(r + 1);
    if (shared.rounds[r].flags & kGeneral)
      add_round<D, true>(p, at, role, shared.rounds[r], r % 2, warp);
    else
      add_round<D, false>(p, at, role, shared.rounds[r], r % 2, warp);
  }
  __syncthreads();
  warp.end(p, at, role, segments);
}

}  // namespace

void key_gradients(Context context, const Problem& p, int D, const WorkList& work) {
  Tensor room = segment_room(context, p, D, work, 2);
  const Segments segments{data_or_null<float>(room), 2};
  with_head_dim(
      D, [&](auto dim) { launch_pass<dim()>(context, p, key_gradients_kernel<dim()>, work, segments); });
  add_segments(context, p, D, work, segments, 0, p.k_grad, p.M);
  add_segments(context, p, D, work, segments, 1, p.v_grad, p.M);
}

}  // namespace filigree::cuda::backward16
