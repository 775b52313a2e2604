// Backward on Hopper (backward_sm90.cu): the problem, shared memory, the two warps that fill it, and the one
// that adds up dQ.
#pragma once

#include "attention/cuda/hopper.cuh"

namespace filigree::cuda::hopper {

struct Rows {
  bfloat16* data;
  std::int64_t stride;  // elements from row to row

  __device__ bfloat16* at(std::int64_t row, int element) const { return data + row * stride + element; }
};
struct BackwardProblem : Problem, Gradients {
  int blocks;  // of kBlockRows queries, in a sequence
  Rows q_grad, k_grad, v_grad;
  float* sums;  // of dQ: [B, H, blocks, 64 D], as the products leave them
  int* turns;   // [B, H, blocks]: the group of keys that was added last; kNoTurn at first
};
constexpr int kNoTurn = 0x7f7f7f7f;

struct BackwardMaps {  // of the tensors that are copied, 64 rows at a time
  CUtensorMap q, k, v, o_grad;
};
void launch_backward(Context context, const BackwardProblem& p, const BackwardMaps& maps, int D);

namespace backward_pass {

constexpr int kStages = 2;
// A step has a block of 64 queries at D = 128, and two at D = 64, whose sums leave room for that many in
// registers.
template <int D>
constexpr int kHalves = D == 64 ? 2 : 1;
template <int D>
constexpr int kStepRows = kHalves<D>* kBlockRows;
template <int D>
constexpr int kStepPanel = kStepRows<D>* kPanelRowBytes;
constexpr int kOwnPanel = kGroupRows * kPanelRowBytes;
template <int D>
constexpr int kStepBytes = kStepRows<D>* D * 2;
template <int D>
constexpr int kOwnBytes = kGroupRows* D * 2;

// A block of queries.
struct Half {
  int query;  // the first
  int head;
  int before;         // the group of keys whose turn is before, < 0 if none is; kNoTurn: the half is missing
  int mask[kGroups];  // the 64-bit word of the first query and the warpgroup's keys, or as Seen::mask
  float gate[kGroups];
  int number[kGroups];
};
template <int D>
struct Step {
  bool is_end;  // the item is over
  bool ends_visit;
  Half halves[kHalves<D>];
};
// Where a share of dQ goes.
struct Share {
  int block;  // of all; kNothing: nowhere, kEnd: there is no more
  int before, own;

  static constexpr int kNothing = -1, kEnd = -2;
};

template <int D>
struct Shared {
  // Each warpgroup's keys and values [D / 64][64][64]; a step's queries and dO [D / 64][rows][64]; dS, of two
  // steps in turns, each half's [queries][keys] in panels of 64 keys; shares of dQ, of a block each, as the
  // products leave them.
  alignas(1024) unsigned char keys[kGroups][kOwnBytes<D>], values[kGroups][kOwnBytes<D>];
  alignas(1024) unsigned char queries[kStages][kStepBytes<D>], o_grad[kStages][kStepBytes<D>];
  alignas(1024) unsigned char score_grads[2][kHalves<D>][kGroups][kOwnPanel];
  alignas(16) float share[kHalves<D>][kBlockRows * D];
  alignas(16) float2 constants[kStages][kStepRows<D>];
  Step<D> steps[kStages];
  Share share_at[kHalves<D>];
  float gate_sums[2][kHalves<D>][kConsumerWarps];
  Lists lists;
  int work;  // of the keys; -1: there is no more
  Barrier own_full, own_empty, full[kStages], empty[kStages], share_full[kHalves<D>], share_empty[kHalves<D>];

  __device__ void init() {
    own_full.init(1);
    own_empty.init(kConsumerWarps);
    for (int i = 0; i < kStages; ++i) {
      full[i].init(1);
      empty[i].init(kConsumerWarps);
    }
    for (int i = 0; i < kHalves<D>; ++i) {
      share_full[i].init(kConsumerWarps / kHalves<D>);
      share_empty[i].init(1);
    }
    lists.init();
    publish_barriers();
  }
};

// --- the producers ---

// Each own tile of keys has a run of the transpose.
struct KeyPass {
  static constexpr bool kStreamsKeys = false;
  static constexpr int kWindow = 8;
  const BackwardProblem& p;

  __device__ void begin(const Problem&, const Work&, int) const {}
  __device__ void run(const Problem&, const Work& work, int head, int own, int which, int& next,
                      int& end) const {
    const int tile = work.first / p.tile + own;
    if (which != 0 || tile >= p.key_tiles) return;
    const std::int64_t pattern = p.head_pattern[work.b * p.layout_heads + head];
    const std::int32_t* offsets = p.col_offsets + pattern * (p.key_tiles + 1) + tile;
    next = offsets[0];
    end = offsets[1];
    if (work.slot < 0) return;
    next = lower_bound(p.rows, next, end, work.begin);
    end = lower_bound(p.rows, next, end, work.end);
  }
  __device__ int streamed(const Problem&, int i) const { return p.rows[i]; }

  __device__ float gate(const Work& work, int head, int t) const {
    return p.gate ? p.gate[work.b * p.gate_batch_stride + p.gate_place(work.b, head) + t] : 1.0f;
  }
  __device__ bool is_visited(const Work& work, int query_tile, int key_tile, float gate) const {
    if (gate == 0 && !p.gate_grad) return false;
    const int key = key_tile * p.tile;
    return !p.row_bounds ||
           p.ranges[static_cast<std::int64_t>(work.b) * p.query_tiles + query_tile].touch(key, key + p.tile);
  }
  __device__ Seen see(const Problem&, const Work& work, int head, int own, int tile, int i) const {
    const int t = p.tile_of[i], key_tile = work.first / p.tile + own, key = key_tile * p.tile;
    Seen seen{p.mask_id[t], gate(work, head, t), t};
    const bool covered =
        key + p.tile <= p.M &&
        (!p.row_bounds ||
         p.ranges[static_cast<std::int64_t>(work.b) * p.query_tiles + tile].cover(key, key + p.tile));
    if (seen.mask == kFullTile && !covered) seen.mask = kCutTile;
    if (is_visited(work, tile, key_tile, seen.gate)) return seen;
    seen.mask = kNotVisited;
    if (p.gate_grad) p.gate_grad[work.b * p.gate_size + p.gate_place(work.b, head) + t] = 0;
    return seen;
  }

  // Finds the visit's turn: behind the next group of keys of the row of tiles.
  __device__ void finish(const Problem&, const Work& work, int head, Visits& to, int at, bool live) const {
    if (!live) return;
    const int row = to.tile[at];
    const Seen& last = to.seen[to.seen[1][at].mask != kNotVisited ? 1 : 0][at];
    const std::int64_t pattern = p.head_pattern[work.b * p.layout_heads + head];
    const std::int32_t* offsets = p.row_offsets + pattern * (p.query_tiles + 1) + row;
    const int full = p.full_begin[pattern * p.query_tiles + row], t = last.number;
    // What is behind the tile in its own run, and in the other.
    int next[2] = {t + 1, 0}, end[2] = {t < full ? full : offsets[1], t < full ? offsets[1] : full};
    next[1] = lower_bound(p.columns, t < full ? full : offsets[0], end[1], p.columns[t]);
    to.before[at] = -1;
    for (;;) {
      int column[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) column[i] = next[i] < end[i] ? p.columns[next[i]] : kNoTile;
      const int which = column[1] < column[0], least = min(column[0], column[1]);
      if (least == kNoTile) return;
      if (is_visited(work, row, least, gate(work, head, which ? next[1] : next[0]))) {
        to.before[at] = least * p.tile / kOwnRows;
        return;
      }
      ++(which ? next[1] : next[0]);
    }
  }
};

template <int D>
struct Copier {
  const BackwardProblem& p;
  const BackwardMaps& maps;
  Shared<D>& shared;
  RingPlace<kStages> place;
  RingPlace<2> lists;
  RingPlace<1> own;
  int half = 0;  // of the step at `place`, that comes next

  // By one lane.
  __device__ void run() {
    for (;; ++lists.passed) {
      shared.lists.full[lists.slot()].wait(lists.parity());
      const Visits& visits = shared.lists.visits[lists.slot()];
      if (visits.work < 0) break;
      const Work work(p, visits.work, p.H / p.heads_per_kv);
      if (visits.first) copy_keys(work, visits.work);
      for (int v = 0; v < visits.count; ++v) add_visit(work, visits, v);
      if (visits.last) end_steps(work);
      shared.lists.empty[lists.slot()].arrive();
    }
    shared.own_empty.wait(own.parity() ^ 1);
    shared.work = -1;
    shared.own_full.arrive();
  }

  __device__ void copy_keys(const Work& work, int number) {
    shared.own_empty.wait(own.parity() ^ 1);
    shared.work = number;
    shared.own_full.arm(2 * kGroups * kOwnBytes<D>);
    for (int group = 0; group < kGroups; ++group) {
      const int first = work.first + group * kGroupRows;
      copy_to_panels<D>(maps.k, work.head * D, first, work.b, shared_address(shared.keys[group]), kOwnPanel,
                        shared.own_full);
      copy_to_panels<D>(maps.v, work.head * D, first, work.b, shared_address(shared.values[group]), kOwnPanel,
                        shared.own_full);
    }
    ++own.passed;
  }
  __device__ void add_visit(const Work& work, const Visits& visits, int v) {
    const int first = visits.tile[v] * p.tile, end = min(p.N, first + p.tile);
    for (int query = first; query < end; query += kBlockRows) {
      if (half == 0) shared.empty[place.slot()].wait(place.parity() ^ 1);
      Half& to = shared.steps[place.slot()].halves[half];
      to.query = query;
      to.head = visits.head;
      to.before = visits.before[v];
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const Seen& seen = visits.seen[p.own_tile(group)][v];
        to.mask[group] = p.mask_word(seen.mask, query - first, group);
        to.gate[group] = seen.gate;
        to.number[group] = seen.number;
      }
      if (++half == kHalves<D>) copy_step(work, query + kBlockRows >= end);
    }
    if (p.tile == 128) complete_step(work);
  }
  // Beside a half that has none, the same queries once more, of which nothing is allowed.
  __device__ void complete_step(const Work& work) {
    if (half == 0) return;
    Half* const halves = shared.steps[place.slot()].halves;
    halves[kHalves<D> - 1] = halves[0];
    halves[kHalves<D> - 1].before = kNoTurn;
    for (int group = 0; group < kGroups; ++group) halves[kHalves<D> - 1].mask[group] = kNotVisited;
    copy_step(work, true);
  }
  __device__ void copy_step(const Work& work, bool ends_visit) {
    const int slot = place.slot();
    Barrier& full = shared.full[slot];
    Step<D>& step = shared.steps[slot];
    step.is_end = false;
    step.ends_visit = ends_visit;
    full.arm(2 * kStepBytes<D> + static_cast<int>(sizeof(shared.constants[0])));
    for (int h = 0; h < kHalves<D>; ++h) {
      const Half& from = step.halves[h];
      copy_to_panels<D>(maps.q, from.head * D, from.query, work.b,
                        shared_address(shared.queries[slot]) + h * kOwnPanel, kStepPanel<D>, full);
      copy_to_panels<D>(maps.o_grad, from.head * D, from.query, work.b,
                        shared_address(shared.o_grad[slot]) + h * kOwnPanel, kStepPanel<D>, full);
      const std::int64_t row =
          (static_cast<std::int64_t>(work.b) * p.H + from.head) * p.blocks * kBlockRows + from.query;
      copy_bytes(shared_address(shared.constants[slot] + h * kBlockRows), p.constants + row,
                 kBlockRows * sizeof(float2), full);
    }
    ++place.passed;
    half = 0;
  }
  __device__ void end_steps(const Work& work) {
    complete_step(work);
    shared.empty[place.slot()].wait(place.parity() ^ 1);
    shared.steps[place.slot()].is_end = true;
    shared.full[place.slot()].arrive();
    ++place.passed;
  }
};

// By one lane: adds the shares of dQ in their turns.
template <int D>
__device__ void add_shares(const BackwardProblem& p, Shared<D>& shared) {
  for (int number = 0;; ++number) {
    const int half = number % kHalves<D>;
    shared.share_full[half].wait(number / kHalves<D> % 2);
    const Share at = shared.share_at[half];
    if (at.block == Share::kEnd) return;
    if (at.block == Share::kNothing) {
      shared.share_empty[half].arrive();
      continue;
    }
    int* const turn = p.turns + at.block;
    // The sum is added to where it is kept, with nothing read before: the turn is all that has to be waited
    // for.
    for (int last = -1; at.before >= 0 && last != at.before;)
      asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(last) : "l"(turn) : "memory");
    copy_out(p.sums + static_cast<std::int64_t>(at.block) * (kBlockRows * D),
             shared_address(shared.share[half]), sizeof(shared.share[0]), at.before >= 0);
    commit_copies_out();
    wait_until_read();
    shared.share_empty[half].arrive();
    wait_until_written();
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(turn), "r"(at.own) : "memory");
  }
}

}  // namespace backward_pass
}  // namespace filigree::cuda::hopper
