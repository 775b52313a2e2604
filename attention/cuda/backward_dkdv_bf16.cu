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
__device__ void load_round(const Problem& p, const Place& at, const Round& round, int stage) {
  const int rows = p.round_rows();
  const std::uint32_t to = stage_address<D>(p, stage);
  load_rows<D>(p.q, at.b, round.head, round.first, p.N, rows, to);
  load_rows<D>(p.o_grad, at.b, round.head, round.first, p.N, rows,
               to + static_cast<std::uint32_t>(rows * kRowBytes<D>));
  auto& extras = shared_memory().extras[stage].of_queries;
  const std::int64_t first = (static_cast<std::int64_t>(at.b) * p.H + round.head) * p.N + round.first;
  for (int i = static_cast<int>(threadIdx.x); i < rows; i += static_cast<int>(blockDim.x)) {
    const bool valid = round.first + i < p.N;
    copy_async<4>(&extras.log2_sum[i], p.log2_sum + first + i, valid);
    copy_async<4>(&extras.delta[i], p.delta + first + i, valid);
    if (p.row_bounds)
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

// What a warp needs to know of its 32 keys.
struct Keys {
  int group;       // of the CTA
  int tile_group;  // of the tile
  int first;
};

// Bit c: whether the query in row `row` of the round may see the group's key c.
__device__ std::uint32_t allowed_keys(const Problem& p, const Keys& keys, const Round& round, int stage,
                                      int row) {
  const auto& extras = shared_memory().extras[stage].of_queries;
  std::uint32_t allowed = ~0u;
  if (round.mask != kFullTile) allowed = extras.masks[(p.tile == kMaxOwn ? 4 : 2) * row + keys.tile_group];
  if (p.row_bounds) {
    const int2 bounds = extras.bounds[row];
    allowed &= keys_within({max(bounds.x, 0), max(bounds.y, 0)}, keys.first);
  }
  return allowed;
}

// The lane's queries in a block of scores: in products j = 0 and 1, this one and the next.
__device__ int lane_query(int block, int j) {
  return block * kBlock + j * 8 + lane_id() % 4 * 2;
}

// K Q^T -> P^T, of one block of queries.
template <bool kGeneralRound>
__device__ void probabilities(const Problem& p, const Keys& keys, const Round& round, int stage, int block,
                              Scores<1>& s) {
  const float slope = kGeneralRound && p.slopes ? p.slopes[round.head] * kLog2E : 0.0f;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float2 log2_sums = *reinterpret_cast<const float2*>(
        shared_memory().extras[stage].of_queries.log2_sum + lane_query(block, j));
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int row = lane_query(block, j) + c;
      std::uint32_t allowed = 0;
      if constexpr (kGeneralRound) allowed = allowed_keys(p, keys, round, stage, row) >> lane_id() / 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // keys 8 i + lane / 4
        float& x = s[i / 2][j][i % 2 * 2 + c];
        const float exponent = fmaf(x, p.log2_scale, c ? -log2_sums.y : -log2_sums.x);
        if constexpr (kGeneralRound) {
          const int distance = round.first + row - (keys.first + 8 * i + lane_id() / 4);
          const float power = cut_exp2(fmaf(-slope, static_cast<float>(abs(distance)), exponent));
          x = allowed >> (8 * i) & 1u ? round.gate * power : 0.0f;
        } else {
          x = fast_exp2(exponent);
        }
      }
    }
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
      for (int i = 0; i < 4; ++i) {
        float& x = dp[half][j][i];
        x = p[half][j][i] * (x - (i % 2 ? deltas.y : deltas.x));
      }
  }
}

// Calls f with the number of each of the round's blocks that the group has something to do with.
template <bool kGeneralRound, class F>
__device__ void for_each_block(const Problem& p, const Keys& keys, const Round& round, F&& f) {
  const int blocks = (min(p.round_rows(), p.N - round.first) + kBlock - 1) / kBlock;
#pragma unroll 1
  for (int block = 0; block < blocks; ++block)
    if (!kGeneralRound || (round.blocks >> (4 * block + keys.tile_group) & 1u)) f(block);
}

// D <= 64: one warp does everything for its keys.
template <int D>
struct WholeWarp {
  OwnRows<D> k, v;
  Sums<D> k_grad, v_grad;

  __device__ void begin(const Problem& p, const Keys& keys) {
    const std::uint32_t own =
        own_address<D>(p) + static_cast<std::uint32_t>(keys.group * kGroup * kRowBytes<D>);
    load_own<D>(k, own);
    load_own<D>(v, own + static_cast<std::uint32_t>(p.own * kRowBytes<D>));
    zero<D>(k_grad);
    zero<D>(v_grad);
  }

  template <bool kGeneralRound>
  __device__ void add(const Problem& p, const Keys& keys, const Round& round, int stage) {
    const std::uint32_t rows = stage_address<D>(p, stage);
    const Operand q = operand_at<D>(rows),
                  o_grad = operand_at<D>(rows + static_cast<std::uint32_t>(p.round_rows() * kRowBytes<D>));
    for_each_block<kGeneralRound>(p, keys, round, [&](int block) {
      const auto offset = static_cast<std::uint32_t>(block * kBlock * kRowBytes<D>);
      Scores<1> s = {}, ds = {};
      RoundedScores<1> rounded;
      multiply_own<D, 1>(k, q.down + offset, s);
      multiply_own<D, 1>(v, o_grad.down + offset, ds);
      probabilities<kGeneralRound>(p, keys, round, stage, block, s);
      round_scores<1>(s, rounded);
      add_weighted<D, 1>(rounded, o_grad.across + offset, v_grad);
      score_gradients(s, stage, block, ds);
      round_scores<1>(ds, rounded);
      add_weighted<D, 1>(rounded, q.across + offset, k_grad);
    });
  }

  __device__ void end(const Problem& p, const Place& at, const Keys& keys, const Segments& segments) {
    write_result<D>(p, at, keys.group, k_grad, p.scale, p.k_grad, segments, 0, p.M);
    write_result<D>(p, at, keys.group, v_grad, 1, p.v_grad, segments, 1, p.M);
  }
};

// D > 64: the P warp has K and dv, the dS warp V and dk.
template <int D>
struct WarpOfPair {
  bool computes_ds;
  OwnRows<D> own;
  Sums<D> sums;

  __device__ void begin(const Problem& p, const Keys& keys) {
    computes_ds = role_of_warp<D>(p).computes_ds;
    load_own<D>(own,
                own_address<D>(p) + static_cast<std::uint32_t>(
                                        ((computes_ds ? p.own : 0) + keys.group * kGroup) * kRowBytes<D>));
    zero<D>(sums);
    if (computes_ds) arrive_at(buffer_free(keys.group));
  }

  template <bool kGeneralRound>
  __device__ void add(const Problem& p, const Keys& keys, const Round& round, int stage) {
    const std::uint32_t q = stage_address<D>(p, stage),
                        o_grad = q + static_cast<std::uint32_t>(p.round_rows() * kRowBytes<D>);
    const std::uint32_t scored = operand_at<D>(computes_ds ? o_grad : q).down,
                        summed = operand_at<D>(computes_ds ? q : o_grad).across;
    for_each_block<kGeneralRound>(p, keys, round, [&](int block) {
      const auto offset = static_cast<std::uint32_t>(block * kBlock * kRowBytes<D>);
      Scores<1> s = {};
      RoundedScores<1> rounded;
      multiply_own<D, 1>(own, scored + offset, s);
      if (computes_ds) {
        Scores<1> probability;
        receive(keys.group, rounded);
        widen_scores<1>(rounded, probability);
        score_gradients(probability, stage, block, s);
        round_scores<1>(s, rounded);
      } else {
        probabilities<kGeneralRound>(p, keys, round, stage, block, s);
        round_scores<1>(s, rounded);
        send(keys.group, rounded);
      }
      add_weighted<D, 1>(rounded, summed + offset, sums);
    });
  }

  __device__ void end(const Problem& p, const Place& at, const Keys& keys, const Segments& segments) {
    if (computes_ds) {
      write_result<D>(p, at, keys.group, sums, p.scale, p.k_grad, segments, 0, p.M);
    } else {
      wait_at(buffer_free(keys.group));
      write_result<D>(p, at, keys.group, sums, 1, p.v_grad, segments, 1, p.M);
    }
  }
};

template <int D>
__global__ void __launch_bounds__(kMaxThreads<D>, kResident<D>)
    key_gradients_kernel(const __grid_constant__ Problem p, const WorkItem* items, Segments segments) {
  const Place at = place_of_cta(p, items);
  if (at.first >= p.M) return;
  load_rows<D>(p.k, at.b, at.item.head, at.first, p.M, p.own, own_address<D>(p));
  load_rows<D>(p.v, at.b, at.item.head, at.first, p.M, p.own,
               own_address<D>(p) + static_cast<std::uint32_t>(p.own * kRowBytes<D>));
  commit_copies();
  const int n_rounds = list_rounds<false>(p, at, [&](int i) { return tile_of_column(p, at, i); });
  const Round* const rounds = shared_memory().rounds;
  if (n_rounds > 0) load_round<D>(p, at, rounds[0], 0);
  commit_copies();
  wait_for_copies<1>();
  __syncthreads();

  const int group = role_of_warp<D>(p).group;
  const Keys keys{group, at.offset / kGroup + group, at.first + group * kGroup};
  std::conditional_t<kPaired<D>, WarpOfPair<D>, WholeWarp<D>> warp;
  warp.begin(p, keys);
#pragma unroll 1
  for (int r = 0; r < n_rounds; ++r) {
    wait_for_copies<0>();
    __syncthreads();
    if (r + 1 < n_rounds) load_round<D>(p, at, rounds[r + 1], (r + 1) % 2);
    commit_copies();
    if (rounds[r].flags & kGeneral)
      warp.template add<true>(p, keys, rounds[r], r % 2);
    else
      warp.template add<false>(p, keys, rounds[r], r % 2);
  }
  __syncthreads();
  warp.end(p, at, keys, segments);
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
