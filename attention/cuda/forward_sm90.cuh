// Forward on Hopper (forward_sm90.cu): the problem, shared memory, and the warp that fills it.
#pragma once

#include <limits>

#include "attention/cuda/forward_bf16.cuh"
#include "attention/cuda/wgmma.cuh"

namespace filigree::cuda::forward16::hopper {

constexpr int kVisitKeys = 2 * kVisitBlock;
constexpr float kHighest = 0x1p40f;
constexpr float kNoShift = std::numeric_limits<float>::lowest();  // not -inf, of which differences are NaN
constexpr int kPanel = kVisitKeys * kPanelRowBytes, kQueryPanel = kVisitBlock * kPanelRowBytes;

struct VisitProblem : Problem {
  const Visit* visits;
  const VisitTiles* visit_tiles;
  unsigned* ticket;
  int n_work;
};
struct Maps {  // of the tensors that are copied, 64 rows at a time
  CUtensorMap q, k, v;
};

template <int D>
struct Sizes {
  static constexpr int kGroups = visit_blocks(D);  // warpgroups that compute
  static constexpr int kWarps = kGroups * kWarpgroup / kWarpSize;
  static constexpr int kThreads = (kGroups + 1) * kWarpgroup;
  static constexpr int kSlots = D == 64 ? 10 : 5;
  static constexpr int kQueryBytes = 2 * D * kVisitBlock, kSlotBytes = 2 * D * kVisitKeys;
  static constexpr int kRegisters = kGroups == 3 ? 160 : 232, kProducerRegisters = kGroups == 3 ? 32 : 40;
  // Whether the warpgroups take turns in starting products, so that one computes powers while the other's
  // products run. At D = 64, where powers take as long as products, it brings nothing.
  static constexpr bool kTakesTurns = D == 128;
};

// --- shared memory ---

// What a visit is to a warpgroup: with kFull, only the factor and the gates are to be applied to the scores.
enum Kind { kEnd, kNothing, kFull, kGeneral };

template <int groups>
struct VisitInfo {
  int kind[groups];
  int key[2];
  int mask[groups][2];  // as Visit::mask, or kCutTile
  float log2_gate[groups][2];
};
struct Work {
  int head, b, first_row, slot;  // head < 0: there is no more
};

template <int D>
struct Shared {
  using S = Sizes<D>;
  // Each warpgroup's queries [D / 64][64][64], of two items in turns; keys or values [D / 64][128][64].
  alignas(1024) unsigned char queries[2][S::kGroups][S::kQueryBytes], slots[S::kSlots][S::kSlotBytes];
  VisitInfo<S::kGroups> visits[S::kSlots];  // beside the keys
  VisitInfo<S::kGroups> listed[kWarpSize];  // by the producer, for itself
  JointRange ranges[S::kGroups];            // likewise, of the item's blocks
  Work work[2];                             // beside the queries
  CopyBarrier queries_full[2], queries_empty[2], full[S::kSlots], empty[S::kSlots];

  __device__ void init() {
    for (int i = 0; i < 2; ++i) {
      queries_full[i].init();
      queries_empty[i].init(S::kWarps * kWarpSize);
    }
    for (int i = 0; i < S::kSlots; ++i) {
      full[i].init(kWarpSize);
      empty[i].init(S::kWarps);
    }
    publish_barriers();
  }
};

// Where a producer or a consumer is in a ring of n.
template <int n>
struct RingPlace {
  int slot = 0, parity = 0;

  __device__ void next() {
    slot = slot + 1 == n ? 0 : slot + 1;
    parity ^= slot == 0;
  }
};

// A value in shared memory, read by the one lane that arrives at a barrier for its warp when all is read: so
// the order of reads and writes does not rest on that of the warp's lanes, which racecheck does not follow.
template <class T>
__device__ T of_lane_0(const T& in_shared) {
  T x{};
  if (lane_id() == 0) x = in_shared;
  return __shfl_sync(kWholeWarp, x, 0);
}

// --- the producer, a warp. The ring has, for an item, keys 0, keys 1, values 0, keys 2, values 1, .., kEnd
// in place of keys, the last values ---

template <int D>
struct Producer {
  using S = Sizes<D>;
  const VisitProblem& p;
  const Maps& maps;
  Shared<D>& shared;
  RingPlace<S::kSlots> ring;
  RingPlace<2> queries;
  Work work;
  const float* gate;  // of the tiles of the work's head; nullptr: 1

  __device__ void run() {
    for (int number = static_cast<int>(blockIdx.x); number < p.n_work;) {
      // The tickets of a launch are as many as its items, and then they begin at 0 again.
      const unsigned drawn = lane_id() == 0 ? atomicInc(p.ticket, static_cast<unsigned>(p.n_work - 1)) : 0;
      const WorkItem item = p.items[number / p.sharing];
      work = {item.head % p.H, number % p.sharing + item.head / p.H, item.tile * S::kGroups * kVisitBlock,
              item.slot};
      gate = p.gate ? p.gate + work.b * p.gate_batch_stride + p.gate_base[work.b * p.layout_heads + work.head]
                    : nullptr;
      if (work.slot >= 0) work.slot = work.slot * p.sharing + work.b % p.sharing;
      begin_item();
      copy_visits(item);
      number = static_cast<int>(gridDim.x + __shfl_sync(kWholeWarp, drawn, 0));
    }
    work.head = -1;
    begin_item();
  }

  __device__ void begin_item() {
    const int slot = queries.slot;
    shared.queries_empty[slot].wait(queries.parity ^ 1);
    queries.next();
    if (lane_id() != 0) return;
    shared.work[slot] = work;
    if (work.head < 0) return shared.queries_full[slot].arrive();
    shared.queries_full[slot].arm(S::kGroups * S::kQueryBytes);
    for (int g = 0; g < S::kGroups; ++g)
      copy_to_panels<D>(maps.q, work.head * D, work.first_row + g * kVisitBlock, work.b,
                        shared_address(shared.queries[slot][g]), kQueryPanel, shared.queries_full[slot]);
  }

  __device__ void copy_visits(const WorkItem& item) {
    if (p.row_bounds) {
      for (int g = 0; g < S::kGroups; ++g) {
        const JointRange range = joint_range(p, work.b, work.first_row + g * kVisitBlock, kVisitBlock);
        if (lane_id() == 0) shared.ranges[g] = range;
      }
      __syncwarp();
    }
    int before = -1;  // key of the visit before, whose values come behind this one's keys
    int before_too = 0;
    for (int first = item.begin; first < item.end; first += kWarpSize) {
      const bool live = first + lane_id() < item.end && list(first + lane_id());
      __syncwarp();
      for (unsigned all = __ballot_sync(kWholeWarp, live); all != 0; all &= all - 1) {
        const VisitInfo<S::kGroups>& info = shared.listed[__ffs(static_cast<int>(all)) - 1];
        wait_for_slot();
        start_copies(maps.k, info.key[0], info.key[1]);
        const auto* const words = reinterpret_cast<const int*>(&info);
        for (int i = lane_id(); i < static_cast<int>(sizeof(info) / sizeof(int)); i += kWarpSize)
          reinterpret_cast<int*>(&shared.visits[ring.slot])[i] = words[i];
        pass_slot_on();
        if (before >= 0) copy_values(before, before_too);
        before = info.key[0];
        before_too = info.key[1];
      }
      __syncwarp();  // the list may be written again
    }
    wait_for_slot();
    if (lane_id() < S::kGroups) shared.visits[ring.slot].kind[lane_id()] = kEnd;
    shared.full[ring.slot].arrive();
    ring.next();
    if (before >= 0) copy_values(before, before_too);
  }

  // Notes for the lane what the visit is to each of the warpgroups; false if nothing to all.
  __device__ bool list(int number) const {
    const Visit& visit = p.visits[number];
    VisitInfo<S::kGroups>& info = shared.listed[lane_id()];
    const bool plain = !p.slopes && p.log2_scale > 0;
    bool live = false;
    for (int h = 0; h < 2; ++h) info.key[h] = visit.key[h];
#pragma unroll 1
    for (int g = 0; g < S::kGroups; ++g) {
      bool any = false, full = true;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        int mask = visit.mask[g][h];
        const int key = visit.key[h], end = key + kVisitBlock;
        float log2_gate = 0;
        if (mask == kFullTile && end > p.M) mask = kCutTile;
        if (p.row_bounds) {
          const JointRange& range = shared.ranges[g];
          if (mask == kFullTile && (key < range.all.low || end > range.all.high)) mask = kCutTile;
          if (key >= range.some.high || end <= range.some.low) mask = kNotVisited;
        }
        if (gate && mask != kNotVisited) {
          const float weight = gate[p.visit_tiles[number].tile[g][h]];
          if (weight == 0)
            mask = kNotVisited;
          else if (weight != 1)
            log2_gate = log2f(weight);
        }
        info.mask[g][h] = mask;
        info.log2_gate[g][h] = log2_gate;
        any |= mask != kNotVisited;
        full &= mask == kFullTile;
      }
      info.kind[g] = !any ? kNothing : full && plain ? kFull : kGeneral;
      live |= any;
    }
    return live;
  }

  __device__ void wait_for_slot() {
    shared.empty[ring.slot].wait(ring.parity ^ 1);
  }
  // The barrier is armed only behind the copies: until then, the slot is not passed on.
  __device__ void start_copies(const CUtensorMap& map, int key, int other_key) {
    if (lane_id() != 0) return;
    const std::uint32_t to = shared_address(shared.slots[ring.slot]);
    const int column = work.head / p.heads_per_kv * D;
    copy_to_panels<D>(map, column, key, work.b, to, kPanel, shared.full[ring.slot]);
    copy_to_panels<D>(map, column, other_key, work.b, to + kQueryPanel, kPanel, shared.full[ring.slot]);
  }
  __device__ void pass_slot_on() {
    if (lane_id() == 0)
      shared.full[ring.slot].arm(S::kSlotBytes);
    else
      shared.full[ring.slot].arrive();
    ring.next();
  }
  __device__ void copy_values(int key, int other_key) {
    wait_for_slot();
    start_copies(maps.v, key, other_key);
    pass_slot_on();
  }
};

}  // namespace filigree::cuda::forward16::hopper
