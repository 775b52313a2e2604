// The dq pass of the bf16 backward (backward_bf16.cuh): a CTA owns the queries of a tile for a head, or for a
// segment of its row, and streams the keys that they meet:
//   S = Q K^T,  P0 = e^(S - lse),  dP = dO V^T,  dS = m P0 (dP - Delta),  dq += dS K
// and, each tile being visited by one CTA, dm = the sum of P0 (dP - Delta) over the tile.
#include "attention/cuda/backward_bf16_warp.cuh"

namespace filigree::cuda::backward16 {
namespace {

// Thread i also copies the mask's row of own query i.
template <int D>
__device__ void load_visit(const Problem& p, int v) {
  const Shared& shared = shared_memory();
  const Visit& visit = shared.visits[v];
  const int i = loading_thread(p);
  load_rows<D>(p.k, p.v, shared.at.b, p.M, shared.at.item.head / (p.H / p.G), visit.first, p.tile,
               stage_address<D>(p, v % 2), i);
  load_mask_row(p, visit, i, shared_memory().extras[v % 2]);
}

// Which keys each of the own queries may see by its bounds; none for missing queries.
__device__ void load_bounds(const Problem& p) {
  const Place& at = shared_memory().at;
  for (int i = static_cast<int>(threadIdx.x); i < p.tile; i += static_cast<int>(blockDim.x)) {
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
struct RowConstants {
  float of[4];

  __device__ RowConstants(const Problem& p, int group, const float* from) {
    const Place& at = shared_memory().at;
    from += p.constants_of(at.b, at.item.head);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int query = at.first + group * kGroup + 8 * i + lane_id() / 4;
      of[i] = query < p.N ? from[query] : 0.0f;
    }
  }
  __device__ float at(int e) const {
    return of[e / 8 * 2 + e / 2 % 2];
  }  // for element e of scores
};

// The lane's keys in a block are the two from this one on, and those 8 further on.
__device__ int lane_key(int block) {
  return block * kBlock + lane_id() % 4 * 2;
}

__device__ void add_alibi(const Problem& p, int group, const Cursor& at, int block, Scores& exponents) {
  const Shared& shared = shared_memory();
  const float slope = p.slopes[shared.at.item.head] * kLog2E;
  const int query = shared.at.first + group * kGroup + lane_id() / 4;
  const int distance = query - (shared.visits[at.visit].first + lane_key(block));
#pragma unroll
  for (int e = 0; e < 16; ++e) {
    const int row = e / 8 * 16 + e / 2 % 2 * 8, key = e / 4 % 2 * 8 + e % 2;
    element(exponents, e) =
        fmaf(-slope, static_cast<float>(abs(distance + row - key)), element(exponents, e));
  }
}

// -inf where the pair is not allowed.
__device__ void forbid(const Problem& p, int group, const Cursor& at, int block, Scores& exponents) {
  const Shared& shared = shared_memory();
  const Visit& visit = shared.visits[at.visit];
  const bool masked = visit.mask != kFullTile, bounded = visit.flags & kBounded;
  const auto* masks =
      reinterpret_cast<const std::uint16_t*>(shared.extras[at.visit % 2].masks);  // of a block of keys
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int query = group * kGroup + 8 * i + lane_id() / 4;
    std::uint32_t allowed = masked ? masks[4 * p.mask_words() * query + block] : 0xffffu;
    if (bounded) allowed &= keys_within(shared.bounds[query], visit.first + block * kBlock);
    allowed >>= lane_key(0);
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int c = 0; c < 2; ++c)
        if (!(allowed >> (8 * j + c) & 1u)) exponents[i / 2][j][i % 2 * 2 + c] = -kInfinity;
  }
}

// Q K^T -> P0
template <bool kGeneralVisit>
__device__ void probabilities(const Problem& p, int group, const RowConstants& log2_sums, const Cursor& at,
                              int block, Scores& s) {
#pragma unroll
  for (int e = 0; e < 16; ++e) {
    const float exponent = fmaf(element(s, e), p.log2_scale, -log2_sums.at(e));
    element(s, e) = kGeneralVisit ? exponent : fast_exp2(exponent);
  }
  if constexpr (kGeneralVisit) {
    const Visit& visit = shared_memory().visits[at.visit];
    if (p.slopes) add_alibi(p, group, at, block, s);
    if (visit.mask != kFullTile || (visit.flags & kBounded)) forbid(p, group, at, block, s);
    raise_cut(1, s);
  }
}

// What all warps share.
struct QueryWarp {
  const Problem& p;
  int group;
  float gate_sum = 0;

  __device__ QueryWarp(const Problem& problem, int number) : p(problem), group(number) {}

  // dP -> dS; P0 (dP - Delta) is added to gate_sum.
  template <bool kGeneralVisit, class P>
  __device__ void score_gradients(const P& p0, const RowConstants& deltas, const Cursor& at, Scores& dp) {
#pragma unroll
    for (int e = 0; e < 16; ++e) {
      float& x = element(dp, e);
      x = element(p0, e) * (x - deltas.at(e));
      if constexpr (kGeneralVisit) {
        gate_sum += x;
        x *= shared_memory().visits[at.visit].gate;
      }
    }
  }

  // Writes the gate gradient of the visit before, which all groups have left their shares of.
  __device__ void begin_visit(int v) const {
    if (!p.gate_grad || v == 0 || threadIdx.x != 0) return;
    const Shared& shared = shared_memory();
    float sum = 0;
    for (int g = 0; g < p.tile / kGroup; ++g) sum += shared.gate_sums[(v - 1) % 2][g];
    p.gate_grad[shared.at.b * p.gate_size + p.gate_base[p.layout_head(shared.at.b, shared.at.item.head)] +
                shared.visits[v - 1].number] = sum;
  }

  // Leaves the group's share.
  __device__ void end_visit(int v) {
    if (!p.gate_grad) return;
#pragma unroll
    for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2)
      gate_sum += __shfl_xor_sync(kWholeWarp, gate_sum, lanes);
    if (lane_id() == 0) shared_memory().gate_sums[v % 2][group] = gate_sum;
    gate_sum = 0;
  }
};

// D <= 64: does everything for its queries, two blocks of keys at a time.
template <int D>
struct WholeWarp : QueryWarp {
  static constexpr int kBlocks = 2;
  OwnRows<D> q, o_grad;
  Sums<D> q_grad;
  RowConstants log2_sums, deltas;

  __device__ WholeWarp(const Problem& problem, int number, std::uint32_t rows)
      : QueryWarp(problem, number),
        log2_sums(problem, number, problem.log2_sum),
        deltas(problem, number, problem.delta) {
    load_own<D>(q, rows);
    load_own<D>(o_grad, rows + 2 * D);
    clear<D>(q_grad);
  }

  template <bool kGeneralVisit>
  __device__ void add(const Cursor& at) {
    Scores s[kBlocks], ds[kBlocks];
    multiply_own<D>(q, at.down, s);
    multiply_own<D>(o_grad, at.down + 2 * D, ds);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
      probabilities<kGeneralVisit>(p, group, log2_sums, at, at.block + b, s[b]);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      RoundedScores rounded;
      score_gradients<kGeneralVisit>(s[b], deltas, at, ds[b]);
      round_scores(ds[b], rounded);
      add_weighted<D>(rounded, at.across + b * kBlockBytes<D>, q_grad);
    }
  }

  __device__ void finish(const Segments& segments) const {
    write_result<D>(p, q_grad, p.scale, p.q_grad, segments, 0, p.N);
  }
};

// D > 64: a warp of a pair.
template <int D>
struct PairedWarp : QueryWarp {
  static constexpr int kBlocks = 1;
  bool ds;         // computes dP, dS and dq; its partner S and P
  OwnRows<D> own;  // of o_grad; of q
  Sums<D> q_grad;
  RowConstants constants;  // delta; log2_sum
  Passage passage;

  __device__ PairedWarp(const Problem& problem, int number, std::uint32_t rows)
      : QueryWarp(problem, number),
        ds(computes_ds(problem)),
        constants(problem, number, ds ? problem.delta : problem.log2_sum),
        passage(number) {
    load_own<D>(own, rows + (ds ? 2 * D : 0));
    clear<D>(q_grad);
  }

  template <bool kGeneralVisit>
  __device__ void add(const Cursor& at) {
    Scores scores[1];
    RoundedScores rounded;
    multiply_own<D>(own, at.down + (ds ? 2 * D : 0), scores);
    if (!ds) {
      probabilities<kGeneralVisit>(p, group, constants, at, at.block, scores[0]);
      round_scores(scores[0], rounded);
      passage.write(rounded);
    }
    passage.meet();
    if (ds) {
      passage.read(rounded);
      score_gradients<kGeneralVisit>(rounded, constants, at, scores[0]);
      round_scores(scores[0], rounded);
      add_weighted<D>(rounded, at.across, q_grad);
    }
    passage.next();
  }

  __device__ void end_visit(int v) {
    if (ds) QueryWarp::end_visit(v);
  }
  __device__ void finish(const Segments& segments) const {
    if (ds) write_result<D>(p, q_grad, p.scale, p.q_grad, segments, 0, p.N);
  }
};

template <int D>
__global__ void __launch_bounds__(kMaxThreads<D>, kResident<D>)
    query_gradients_kernel(const __grid_constant__ Problem p, const WorkItem* items, Segments segments) {
  find_place(p, items, p.H);
  const Place& at = shared_memory().at;
  const bool loads = !kPaired<D> || computes_ds(p);
  if (loads)
    load_rows<D>(p.q, p.o_grad, at.b, p.N, at.item.head, at.first, p.tile, stage_address<D>(p, 1),
                 loading_thread(p));
  commit_copies();
  load_bounds(p);
  const int n_visits = list_visits<true>(p, at);
  if (loads && n_visits > 0) load_visit<D>(p, 0);
  commit_copies();
  run_visits<D, std::conditional_t<kPaired<D>, PairedWarp<D>, WholeWarp<D>>>(p, n_visits, p.M, segments,
                                                                             [&](int v) {
                                                                               if (loads) load_visit<D>(p, v);
                                                                             });
}

}  // namespace

void query_gradients(Context context, const Problem& p, int D, const WorkList& work) {
  Tensor room = segment_room(context, p, D, work, 1);
  const Segments segments{data_or_null<float>(room), 1};
  with_head_dim(
      D, [&](auto dim) { launch_pass<dim()>(context, p, query_gradients_kernel<dim()>, work, segments); });
  add_segments(context, p, D, work, segments, 0, p.q_grad, p.H, p.N);
}

}  // namespace filigree::cuda::backward16
