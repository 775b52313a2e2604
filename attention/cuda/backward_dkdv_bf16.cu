// The dk, dv pass of the bf16 backward (backward_bf16.cuh): a CTA owns the keys of a tile for a kv head, or
// for a segment of its column, and streams the queries of all heads of the group that meet them:
//   S^T = K Q^T,  P^T = m e^(S^T - lse),  dv += P^T dO,  dP^T = V dO^T,  dS^T = P^T (dP^T - Delta),  dk +=
//   dS^T Q
// So P and dS are already what the sums need as their left operand, and queries that are missing from the
// last tile, which are read as zeros, add nothing.
#include "attention/cuda/backward_bf16_warp.cuh"

namespace filigree::cuda::backward16 {
namespace {

// Thread i also copies what belongs to query i of the tile.
template <int D>
__device__ void load_visit(const Problem& p, int v) {
  const Shared& shared = shared_memory();
  const Visit& visit = shared.visits[v];
  const int i = loading_thread(p);
  load_rows<D>(p.q, p.o_grad, shared.at.b, p.N, visit.head, visit.first, p.tile, stage_address<D>(p, v % 2),
               i);
  Extras& extras = shared_memory().extras[v % 2];
  load_query_extras(p, visit, i, extras);
  load_mask_row(p, visit, i, extras);
}

// The lane's queries in a block of scores: in products j = 0 and 1, this one and the next. Its keys are
// lane / 4 + 8 i of the group.
__device__ int lane_query(int block, int j) {
  return block * kBlock + j * 8 + lane_id() % 4 * 2;
}

// What an array of Extras has for element e of scores.
struct LaneConstants {
  float2 of[2];

  __device__ LaneConstants(const float* array, int block)
      : of{*reinterpret_cast<const float2*>(array + lane_query(block, 0)),
           *reinterpret_cast<const float2*>(array + lane_query(block, 1))} {}
  __device__ float at(int e) const { return e % 2 ? of[e / 4 % 2].y : of[e / 4 % 2].x; }
};

__device__ void add_alibi(const Problem& p, int group, const Cursor& at, Scores& exponents) {
  const Visit& visit = shared_memory().visits[at.visit];
  const float slope = p.slopes[visit.head] * kLog2E;
  const int first_key = shared_memory().at.first + group * kGroup;
  const int distance = visit.first + lane_query(at.block, 0) - (first_key + lane_id() / 4);
#pragma unroll
  for (int e = 0; e < 16; ++e) {
    const int query = e / 4 % 2 * 8 + e % 2, key = e / 8 * 16 + e / 2 % 2 * 8;
    element(exponents, e) =
        fmaf(-slope, static_cast<float>(abs(distance + query - key)), element(exponents, e));
  }
}

// -inf where the pair is not allowed.
__device__ void forbid(const Problem& p, int group, const Cursor& at, Scores& exponents) {
  const Shared& shared = shared_memory();
  const Extras& extras = shared.extras[at.visit % 2];
  const bool masked = shared.visits[at.visit].mask != kFullTile,
             bounded = shared.visits[at.visit].flags & kBounded;
  const auto* masks = reinterpret_cast<const std::uint32_t*>(extras.masks);
  const int words = 2 * p.mask_words(), first_key = shared.at.first + group * kGroup;
#pragma unroll
  for (int j = 0; j < 2; ++j)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int query = lane_query(at.block, j) + c;
      std::uint32_t allowed = masked ? masks[words * query + group] : ~0u;
      if (bounded) {
        const int2 bounds = extras.bounds[query];
        allowed &= keys_within({max(bounds.x, 0), max(bounds.y, 0)}, first_key);
      }
      allowed >>= lane_id() / 4;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (!(allowed >> (8 * i) & 1u)) exponents[i / 2][j][i % 2 * 2 + c] = -kInfinity;
    }
}

// K Q^T -> P^T
template <bool kGeneralVisit>
__device__ void probabilities(const Problem& p, int group, const Cursor& at, Scores& s) {
  const Shared& shared = shared_memory();
  const LaneConstants log2_sums(shared.extras[at.visit % 2].log2_sum, at.block);
#pragma unroll
  for (int e = 0; e < 16; ++e) {
    const float exponent = fmaf(element(s, e), p.log2_scale, -log2_sums.at(e));
    element(s, e) = kGeneralVisit ? exponent : fast_exp2(exponent);
  }
  if constexpr (kGeneralVisit) {
    const Visit& visit = shared.visits[at.visit];
    if (p.slopes) add_alibi(p, group, at, s);
    if (visit.mask != kFullTile || (visit.flags & kBounded)) forbid(p, group, at, s);
    raise_cut(visit.gate, s);
  }
}

// dP^T -> dS^T
__device__ void score_gradients(const RoundedScores& p, const Cursor& at, Scores& dp) {
  const LaneConstants deltas(shared_memory().extras[at.visit % 2].delta, at.block);
#pragma unroll
  for (int e = 0; e < 16; ++e) element(dp, e) = element(p, e) * (element(dp, e) - deltas.at(e));
}

// What all warps share.
struct KeyWarp {
  static constexpr int kBlocks = 1;
  const Problem& p;
  int group;

  __device__ void begin_visit(int) const {}
  __device__ void end_visit(int) const {}
};

// D <= 64: does everything for its keys.
template <int D>
struct WholeWarp : KeyWarp {
  OwnRows<D> k, v;
  Sums<D> k_grad, v_grad;

  __device__ WholeWarp(const Problem& problem, int number, std::uint32_t rows) : KeyWarp{problem, number} {
    load_own<D>(k, rows);
    load_own<D>(v, rows + 2 * D);
    clear<D>(k_grad);
    clear<D>(v_grad);
  }

  template <bool kGeneralVisit>
  __device__ void add(const Cursor& at) {
    Scores s[1], ds[1];
    RoundedScores rounded_p, rounded_ds;
    multiply_own<D>(k, at.down, s);
    multiply_own<D>(v, at.down + 2 * D, ds);
    probabilities<kGeneralVisit>(p, group, at, s[0]);
    round_scores(s[0], rounded_p);
    add_weighted<D>(rounded_p, at.across + 2 * D, v_grad);
    score_gradients(rounded_p, at, ds[0]);
    round_scores(ds[0], rounded_ds);
    add_weighted<D>(rounded_ds, at.across, k_grad);
  }

  __device__ void finish(const Segments& segments) const {
    write_result<D>(p, k_grad, p.scale, p.k_grad, segments, 0, p.M);
    write_result<D>(p, v_grad, 1, p.v_grad, segments, 1, p.M);
  }
};

// D > 64: a warp of a pair.
template <int D>
struct PairedWarp : KeyWarp {
  bool ds;         // computes dP, dS and dk; its partner S, P and dv
  OwnRows<D> own;  // of v; of k
  Sums<D> sums;
  Passage passage;

  __device__ PairedWarp(const Problem& problem, int number, std::uint32_t rows)
      : KeyWarp{problem, number}, ds(computes_ds(problem)), passage(number) {
    load_own<D>(own, rows + (ds ? 2 * D : 0));
    clear<D>(sums);
  }

  template <bool kGeneralVisit>
  __device__ void add(const Cursor& at) {
    Scores scores[1];
    RoundedScores rounded;
    multiply_own<D>(own, at.down + (ds ? 2 * D : 0), scores);
    if (!ds) {
      probabilities<kGeneralVisit>(p, group, at, scores[0]);
      round_scores(scores[0], rounded);
      passage.write(rounded);
    }
    passage.meet();
    if (ds) {
      passage.read(rounded);
      score_gradients(rounded, at, scores[0]);
      round_scores(scores[0], rounded);
    }
    passage.next();
    add_weighted<D>(rounded, at.across + (ds ? 0 : 2 * D), sums);
  }

  __device__ void finish(const Segments& segments) const {
    write_result<D>(p, sums, ds ? p.scale : 1, ds ? p.k_grad : p.v_grad, segments, ds ? 0 : 1, p.M);
  }
};

template <int D>
__global__ void __launch_bounds__(kMaxThreads<D>, kResident<D>)
    key_gradients_kernel(const __grid_constant__ Problem p, const WorkItem* items, Segments segments) {
  find_place(p, items, p.G);
  const Place& at = shared_memory().at;
  const bool loads = !kPaired<D> || computes_ds(p);
  if (loads)
    load_rows<D>(p.k, p.v, at.b, p.M, at.item.head, at.first, p.tile, stage_address<D>(p, 1),
                 loading_thread(p));
  commit_copies();
  const int n_visits = list_visits<false>(p, at);
  if (loads && n_visits > 0) load_visit<D>(p, 0);
  commit_copies();
  run_visits<D, std::conditional_t<kPaired<D>, PairedWarp<D>, WholeWarp<D>>>(p, n_visits, p.N, segments,
                                                                             [&](int v) {
                                                                               if (loads) load_visit<D>(p, v);
                                                                             });
}

}  // namespace

void key_gradients(Context context, const Problem& p, int D, const WorkList& work) {
  Tensor room = segment_room(context, p, D, work, 2);
  const Segments segments{data_or_null<float>(room), 2};
  with_head_dim(
      D, [&](auto dim) { launch_pass<dim()>(context, p, key_gradients_kernel<dim()>, work, segments); });
  add_segments(context, p, D, work, segments, 0, p.k_grad, p.G, p.M);
  add_segments(context, p, D, work, segments, 1, p.v_grad, p.G, p.M);
}

}  // namespace filigree::cuda::backward16
