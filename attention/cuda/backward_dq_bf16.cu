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
// Blocks of keys that a warp computes at a time.
template <int D>
inline constexpr int kBlocks = kPaired<D> ? 1 : 2;

template <int D>
__device__ void load_round(const Problem& p, const Place& at, const Round& round, int stage) {
  const int rows = p.round_rows(), kv_head = at.item.head / (p.H / p.G);
  const std::uint32_t to = stage_address<D>(p, stage);
  load_rows<D>(p.k, at.b, kv_head, round.first, p.M, rows, to);
  load_rows<D>(p.v, at.b, kv_head, round.first, p.M, rows,
               to + static_cast<std::uint32_t>(rows * kRowBytes<D>));
  if (round.mask == kFullTile) return;
  const int words = (p.tile + 63) / 64;
  const std::int64_t first = static_cast<std::int64_t>(round.mask) * p.tile + at.offset;
  for (int i = static_cast<int>(threadIdx.x); i < p.own; i += static_cast<int>(blockDim.x))
    copy_async<8>(&shared_memory().extras[stage].masks[4 * i], p.masks + (first + i) * words + round.part,
                  true);
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

// What a warp needs to know of its 32 queries. The lane's are lane / 4 + 8 i.
struct Queries {
  int group;       // of the CTA
  int tile_group;  // of the tile
  int first;
  float slope;  // log2(e) times ALiBi's
  float log2_sum[4], delta[4];
};

__device__ Queries load_queries(const Problem& p, const Place& at, int group) {
  Queries q;
  q.group = group;
  q.tile_group = at.offset / kGroup + group;
  q.first = at.first + group * kGroup;
  q.slope = p.slopes ? p.slopes[at.item.head] * kLog2E : 0.0f;
  const std::int64_t row = (static_cast<std::int64_t>(at.b) * p.H + at.item.head) * p.N;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int query = q.first + 8 * i + lane_id() / 4;
    q.log2_sum[i] = query < p.N ? p.log2_sum[row + query] : 0.0f;
    q.delta[i] = query < p.N ? p.delta[row + query] : 0.0f;
  }
  return q;
}

// Bit c: whether the group's query in row `row` may see key c of the block.
__device__ std::uint32_t allowed_keys(const Queries& q, const Round& round, int stage, int block, int row) {
  const int own = q.group * kGroup + row;
  std::uint32_t allowed = keys_within(shared_memory().bounds[own], round.first + block * kBlock);
  if (round.mask != kFullTile) allowed &= shared_memory().extras[stage].masks[4 * own + block];
  return allowed;
}

// Q K^T -> P0, of the block of keys `block` and those after it.
template <bool kGeneralRound, int blocks>
__device__ void probabilities(const Problem& p, const Queries& q, const Round& round, int stage, int block,
                              Scores<blocks>& s) {
#pragma unroll
  for (int b = 0; b < blocks; ++b)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = 8 * i + lane_id() / 4, first_column = lane_id() % 4 * 2;
      std::uint32_t allowed = 0;
      if constexpr (kGeneralRound) allowed = allowed_keys(q, round, stage, block + b, row) >> first_column;
#pragma unroll
      for (int j = 0; j < 4; ++j) {  // keys first_column, + 1, + 8, + 9
        float& x = s[i / 2][2 * b + j / 2][i % 2 * 2 + j % 2];
        const float exponent = fmaf(x, p.log2_scale, -q.log2_sum[i]);
        if constexpr (kGeneralRound) {
          const int column = j / 2 * 8 + j % 2;
          const int distance = q.first + row - (round.first + (block + b) * kBlock + first_column + column);
          const float power = cut_exp2(fmaf(-q.slope, static_cast<float>(abs(distance)), exponent));
          x = allowed >> column & 1u ? power : 0.0f;
        } else {
          x = fast_exp2(exponent);
        }
      }
    }
}

// dP -> dS; P0 (dP - Delta) is added to gate_sum.
template <bool kGeneralRound, int blocks>
__device__ void score_gradients(const Queries& q, const Round& round, const Scores<blocks>& p0,
                                Scores<blocks>& dp, float& gate_sum) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int j = 0; j < 2 * blocks; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& x = dp[half][j][i];
        x = p0[half][j][i] * (x - q.delta[2 * half + i / 2]);
        if constexpr (kGeneralRound) {
          gate_sum += x;
          x *= round.gate;
        }
      }
}

// Calls f with the first of each `blocks` blocks of the round that the group has something to do with.
template <bool kGeneralRound, int blocks, class F>
__device__ void for_each_block(const Problem& p, const Queries& q, const Round& round, F&& f) {
  const int end = (min(p.round_rows(), p.M - round.first) + kBlock - 1) / kBlock;
  constexpr std::uint32_t kColumn = blocks == 1 ? 0x1 : 0x11;
#pragma unroll 1
  for (int block = 0; block < end; block += blocks)
    if (!kGeneralRound || (round.blocks >> (4 * block + q.tile_group) & kColumn)) f(block);
}

// D <= 64: one warp does everything for its queries.
template <int D>
struct WholeWarp {
  static constexpr bool computes_ds = true;
  OwnRows<D> q, o_grad;
  Sums<D> q_grad;
  float gate_sum = 0;

  __device__ void begin(const Problem& p, const Queries& own) {
    const std::uint32_t rows =
        own_address<D>(p) + static_cast<std::uint32_t>(own.group * kGroup * kRowBytes<D>);
    load_own<D>(q, rows);
    load_own<D>(o_grad, rows + static_cast<std::uint32_t>(p.own * kRowBytes<D>));
    zero<D>(q_grad);
  }

  template <bool kGeneralRound>
  __device__ void add(const Problem& p, const Queries& own, const Round& round, int stage) {
    constexpr int blocks = kBlocks<D>;
    const std::uint32_t rows = stage_address<D>(p, stage);
    const Operand k = operand_at<D>(rows),
                  v = operand_at<D>(rows + static_cast<std::uint32_t>(p.round_rows() * kRowBytes<D>));
    for_each_block<kGeneralRound, blocks>(p, own, round, [&](int block) {
      const auto offset = static_cast<std::uint32_t>(block * kBlock * kRowBytes<D>);
      Scores<blocks> s = {}, ds = {};
      RoundedScores<blocks> rounded;
      multiply_own<D, blocks>(q, k.down + offset, s);
      multiply_own<D, blocks>(o_grad, v.down + offset, ds);
      probabilities<kGeneralRound, blocks>(p, own, round, stage, block, s);
      score_gradients<kGeneralRound, blocks>(own, round, s, ds, gate_sum);
      round_scores<blocks>(ds, rounded);
      add_weighted<D, blocks>(rounded, k.across + offset, q_grad);
    });
  }

  __device__ void end(const Problem& p, const Place& at, const Queries& own, const Segments& segments) {
    write_result<D>(p, at, own.group, q_grad, p.scale, p.q_grad, segments, 0, p.N);
  }
};

// D > 64: the P warp has Q, the dS warp dO and dq.
template <int D>
struct WarpOfPair {
  bool computes_ds;
  OwnRows<D> rows;
  Sums<D> q_grad;
  float gate_sum = 0;

  __device__ void begin(const Problem& p, const Queries& own) {
    computes_ds = role_of_warp<D>(p).computes_ds;
    load_own<D>(rows,
                own_address<D>(p) + static_cast<std::uint32_t>(
                                        ((computes_ds ? p.own : 0) + own.group * kGroup) * kRowBytes<D>));
    zero<D>(q_grad);
    if (computes_ds) arrive_at(buffer_free(own.group));
  }

  template <bool kGeneralRound>
  __device__ void add(const Problem& p, const Queries& own, const Round& round, int stage) {
    const std::uint32_t k = stage_address<D>(p, stage),
                        v = k + static_cast<std::uint32_t>(p.round_rows() * kRowBytes<D>);
    const std::uint32_t scored = operand_at<D>(computes_ds ? v : k).down, summed = operand_at<D>(k).across;
    for_each_block<kGeneralRound, 1>(p, own, round, [&](int block) {
      const auto offset = static_cast<std::uint32_t>(block * kBlock * kRowBytes<D>);
      Scores<1> s = {};
      RoundedScores<1> rounded;
      multiply_own<D, 1>(rows, scored + offset, s);
      if (computes_ds) {
        Scores<1> p0;
        receive(own.group, rounded);
        widen_scores<1>(rounded, p0);
        score_gradients<kGeneralRound, 1>(own, round, p0, s, gate_sum);
        round_scores<1>(s, rounded);
        add_weighted<D, 1>(rounded, summed + offset, q_grad);
      } else {
        probabilities<kGeneralRound, 1>(p, own, round, stage, block, s);
        round_scores<1>(s, rounded);
        send(own.group, rounded);
      }
    });
  }

  __device__ void end(const Problem& p, const Place& at, const Queries& own, const Segments& segments) {
    if (computes_ds)
      write_result<D>(p, at, own.group, q_grad, p.scale, p.q_grad, segments, 0, p.N);
    else
      wait_at(buffer_free(own.group));
  }
};

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
  const Place at = place_of_cta(p, items);
  if (at.first >= p.N) return;
  load_rows<D>(p.q, at.b, at.item.head, at.first, p.N, p.own, own_address<D>(p));
  load_rows<D>(p.o_grad, at.b, at.item.head, at.first, p.N, p.own,
               own_address<D>(p) + static_cast<std::uint32_t>(p.own * kRowBytes<D>));
  commit_copies();
  load_bounds(p, at);
  const int n_rounds = list_rounds<true>(p, at, [&](int t) {
    return Tile{t, p.columns[t], at.item.head, 1};
  });
  const Round* const rounds = shared_memory().rounds;
  if (n_rounds > 0) load_round<D>(p, at, rounds[0], 0);
  commit_copies();
  const Queries own = load_queries(p, at, role_of_warp<D>(p).group);
  wait_for_copies<1>();
  __syncthreads();

  std::conditional_t<kPaired<D>, WarpOfPair<D>, WholeWarp<D>> warp;
  warp.begin(p, own);
#pragma unroll 1
  for (int r = 0; r < n_rounds; ++r) {
    wait_for_copies<0>();
    __syncthreads();
    if (r > 0) write_gate_gradient(p, at, rounds[r - 1], (r - 1) % 2);
    if (r + 1 < n_rounds) load_round<D>(p, at, rounds[r + 1], (r + 1) % 2);
    commit_copies();
    if (rounds[r].flags & kGeneral)
      warp.template add<true>(p, own, rounds[r], r % 2);
    else
      warp.template add<false>(p, own, rounds[r], r % 2);
    if (p.gate_grad && (rounds[r].flags & kLastOfTile) && warp.computes_ds)
      leave_gate_sum(own.group, r % 2, warp.gate_sum);
  }
  __syncthreads();
  if (n_rounds > 0) write_gate_gradient(p, at, rounds[n_rounds - 1], (n_rounds - 1) % 2);
  warp.end(p, at, own, segments);
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
