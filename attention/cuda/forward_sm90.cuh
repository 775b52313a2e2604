// Forward on Hopper (forward_sm90.cu): the problem, shared memory, and the two warps that fill it.
#pragma once

#include "attention/cuda/hopper.cuh"

namespace filigree::cuda::hopper {

struct ForwardProblem : Problem, Results {};
struct ForwardMaps {  // of the tensors that are copied, 64 rows at a time
  CUtensorMap q, k, v;
};
void launch_forward(Context context, const ForwardProblem& p, const ForwardMaps& maps, int D);

namespace forward_pass {

// Whether the warpgroups take turns in starting products, so that one computes powers while the other's
// products run. At D = 64, where powers take as long as products, it costs more than it brings.
template <int D>
constexpr bool kTakesTurns = D == 128;
constexpr int kStageKeys = 128;
template <int D>
constexpr int kStages = D == 64 ? 4 : 2;  // of keys, and of values
template <int D>
constexpr int kMatrixBytes = 2 * D* kStageKeys;  // keys or values
template <int D>
constexpr int kQueryBytes = 2 * D* kGroupRows;  // of a warpgroup
constexpr int kOwnPanel = kGroupRows * kPanelRowBytes, kPanel = kStageKeys * kPanelRowBytes;

// The first keys of a stage's halves, and for each warpgroup what there is to know of them.
template <int D>
struct Stage {
  int key[2];            // key[0] < 0: the item is over
  int mask[kGroups][2];  // the mask's 64-bit word of its first row, or as Seen::mask
  float log2_gate[kGroups][2];
};

template <int D>
struct Shared {
  // Each warpgroup's queries [D / 64][64][64], of two items in turns; keys, values [D / 64][128][64].
  alignas(1024) unsigned char queries[2][kGroups][kQueryBytes<D>], keys[kStages<D>][kMatrixBytes<D>],
      values[kStages<D>][kMatrixBytes<D>];
  Lists lists;
  Stage<D> stages[kStages<D>];
  int work[2];  // of the queries beside; -1: there is no more
  Barrier queries_full[2], queries_empty[2];
  Barrier keys_full[kStages<D>], keys_empty[kStages<D>], values_full[kStages<D>], values_empty[kStages<D>];

  __device__ void init() {
    for (int i = 0; i < 2; ++i) {
      queries_full[i].init(1);
      queries_empty[i].init(kConsumerWarps);
    }
    for (int i = 0; i < kStages<D>; ++i) {
      keys_full[i].init(1);
      keys_empty[i].init(kConsumerWarps);
      values_full[i].init(1);
      values_empty[i].init(kConsumerWarps);
    }
    lists.init();
    publish_barriers();
  }
};

// --- the producers, two warps ---

// Each own tile of queries has a run of partial tiles and one of full ones.
struct QueryPass {
  static constexpr bool kStreamsKeys = true;
  static constexpr int kWindow = kWarpSize;
  JointRange ranges[kGroups];  // of the own tiles
  const float* gate;

  __device__ void begin(const Problem& p, const Work& work, int head) {
#pragma unroll
    for (int own = 0; own < kGroups; ++own) ranges[own] = joint_range(p, work.b, work.first + own * p.tile);
    gate = p.gate ? p.gate + work.b * p.gate_batch_stride + p.gate_place(work.b, head) : nullptr;
  }
  __device__ static void run(const Problem& p, const Work& work, int head, int own, int which, int& next,
                             int& end) {
    const int tile = work.first / p.tile + own;
    if (tile >= p.query_tiles) return;
    const std::int64_t pattern = p.head_pattern[work.b * p.layout_heads + head];
    const std::int32_t* offsets = p.row_offsets + pattern * (p.query_tiles + 1) + tile;
    const int full = p.full_begin[pattern * p.query_tiles + tile];
    next = which == 0 ? offsets[0] : full;
    end = which == 0 ? full : offsets[1];
    if (work.slot < 0) return;
    next = lower_bound(p.columns, next, end, work.begin);
    end = lower_bound(p.columns, next, end, work.end);
  }
  __device__ static int streamed(const Problem& p, int t) {
    return p.columns[t];
  }
  __device__ Seen see(const Problem& p, const Work&, int, int own, int tile, int t) const {
    const int key = tile * p.tile;
    const float weight = gate ? gate[t] : 1.0f;
    Seen seen{p.mask_id[t], 0, t};
    if (seen.mask == kFullTile && !ranges[own].cover(key, key + p.tile)) seen.mask = kCutTile;
    if (weight != 1) seen.gate = log2f(weight);
    if (weight == 0 || !ranges[own].touch(key, key + p.tile)) seen.mask = kNotVisited;
    return seen;
  }
  __device__ static void finish(const Problem&, const Work&, int, Visits&, int, bool) {}
};

template <int D>
struct Copier {
  const ForwardProblem& p;
  const ForwardMaps& maps;
  Shared<D>& shared;
  RingPlace<kStages<D>> keys, values;
  RingPlace<2> queries, lists;
  Stage<D> stage{};
  int half = 0;  // of the stage, that comes next

  // By one lane.
  __device__ void run() {
    for (;; ++lists.passed) {
      shared.lists.full[lists.slot()].wait(lists.parity());
      const Visits& visits = shared.lists.visits[lists.slot()];
      if (visits.work < 0) break;
      const Work work(p, visits.work, p.H);
      if (visits.first) copy_queries(work, visits.work);
      copy_visits(work, visits);
      if (visits.last) end_stages(work);
      shared.lists.empty[lists.slot()].arrive();
    }
    shared.queries_empty[queries.slot()].wait(queries.parity() ^ 1);
    shared.work[queries.slot()] = -1;
    shared.queries_full[queries.slot()].arrive();
  }

  __device__ void copy_queries(const Work& work, int number) {
    const int slot = queries.slot();
    Barrier& full = shared.queries_full[slot];
    shared.queries_empty[slot].wait(queries.parity() ^ 1);
    shared.work[slot] = number;
    full.arm(kGroups * kQueryBytes<D>);
    for (int group = 0; group < kGroups; ++group)
      copy_to_panels<D>(maps.q, work.head * D, work.first + group * kGroupRows, work.b,
                        shared_address(shared.queries[slot][group]), kOwnPanel, full);
    ++queries.passed;
  }

  __device__ void copy_visits(const Work& work, const Visits& visits) {
    if (p.tile == 128) {
      for (int v = 0; v < visits.count; ++v) {
        set_half(visits, v, 0);
        set_half(visits, v, 1);
        copy_stage(work);
      }
      return;
    }
    for (int v = 0; v < visits.count; ++v, half ^= 1) {
      if (half == 0) {
        set_half(visits, v, 0);
      } else {
        set_half(visits, v, 1);
        copy_stage(work);
      }
    }
  }
  __device__ void set_half(const Visits& visits, int v, int h) {
    stage.key[h] = visits.tile[v] * p.tile + (p.tile == 128 ? h * 64 : 0);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const Seen& seen = visits.seen[p.own_tile(group)][v];
      stage.mask[group][h] = p.mask_word(seen.mask, p.tile == 128 ? group * kGroupRows : 0, h);
      stage.log2_gate[group][h] = seen.gate;
    }
  }

  __device__ void copy_stage(const Work& work) {
    const int slot = keys.slot(), to = values.slot();
    shared.keys_empty[slot].wait(keys.parity() ^ 1);
    shared.stages[slot] = stage;
    copy(maps.k, work, shared.keys[slot], shared.keys_full[slot]);
    shared.values_empty[to].wait(values.parity() ^ 1);
    copy(maps.v, work, shared.values[to], shared.values_full[to]);
    ++keys.passed;
    ++values.passed;
  }
  __device__ void copy(const CUtensorMap& map, const Work& work, const unsigned char* to,
                       Barrier& full) const {
    full.arm(kMatrixBytes<D>);
#pragma unroll
    for (int h = 0; h < 2; ++h)
      copy_to_panels<D>(map, work.head / p.heads_per_kv * D, stage.key[h], work.b,
                        shared_address(to) + h * kOwnPanel, kPanel, full);
  }
  __device__ void end_stages(const Work& work) {
    if (half == 1) {  // beside the last, the same keys: whatever, but no NaN
      stage.key[1] = stage.key[0];
      for (int group = 0; group < kGroups; ++group) stage.mask[group][1] = kNotVisited;
      copy_stage(work);
      half = 0;
    }
    shared.keys_empty[keys.slot()].wait(keys.parity() ^ 1);
    shared.stages[keys.slot()].key[0] = -1;
    shared.keys_full[keys.slot()].arrive();
    ++keys.passed;
  }
};

}  // namespace forward_pass
}  // namespace filigree::cuda::hopper
