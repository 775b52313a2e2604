// The two passes of the bf16 backward on Hopper for tiles of 128 rows: what fills the ring of stages (see
// backward_ring_sm90.cu, which computes).
//
// A CTA stays and draws its work by tickets, longest items first. One warp, the lister, draws an item and
// lists the tiles to visit; another, the copier, starts the copies of the item's own rows and of the streamed
// rows, 64 at a time, into the stages; two warpgroups, each with 64 own rows, take the stages in turn. They
// wait for each other only where the ring is empty or full.
#pragma once

#include "attention/cuda/backward_bf16.cuh"
#include "attention/cuda/wgmma.cuh"

namespace filigree::cuda::backward16::hopper {

constexpr int kGroups = 2;      // warpgroups that compute
constexpr int kGroupRows = 64;  // own rows of a warpgroup, and streamed rows of a stage
constexpr int kOwnRows = kGroups * kGroupRows;
constexpr int kConsumerWarps = kGroups * kWarpgroup / kWarpSize;
constexpr int kRingThreads = (kGroups + 1) * kWarpgroup;
constexpr int kRingPanel = kGroupRows * kPanelRowBytes;
constexpr int kMostVisits = 64;  // of a list
constexpr int kGateSlots = 8;    // visits whose gates' gradients are being added up: more than stages

// Beside kGeneral and kBounded of a visit.
constexpr std::uint32_t kEndsVisit = 4, kEndsItem = 8, kWantedByFirst = 16;  // and by the second group: 32

struct Step {
  std::uint32_t flags;
  int streamed;  // row of the tile
  int gate_slot;
  Visit visit;
};

struct List {
  Place at;
  int visits;        // < 0: there is no more work
  bool first, last;  // of the item
  Visit visit[kMostVisits];
};

template <int D, bool kOwnsKeys>
struct Ring {
  static constexpr int kStages = D == 64 ? 6 : 4;
  static constexpr int kMatrix = kGroupRows * D * 2;
  // dS goes by way of shared memory where there are no registers for it.
  static constexpr bool kStoresScores = D == 128 && kOwnsKeys;

  // x and y are k and v, or q and o_grad: panels [D / 64][64][64].
  alignas(1024) unsigned char own[kGroups][2][kMatrix], stages[kStages][2][kMatrix];
  alignas(1024) unsigned char scores[kGroups][kRingPanel];  // dS; and results on their way out
  alignas(16) float log2_sum[kStages][kGroupRows], delta[kStages][kGroupRows];  // of streamed queries
  Step steps[kStages];
  List lists[2];
  Place places[2];  // of the item at hand and the next
  bool is_over;
  float gate_sums[kGateSlots][kConsumerWarps];
  int gate_shares[kGateSlots];  // that are there
  CopyBarrier own_full, own_empty, full[kStages], empty[kStages], list_full[2], list_empty[2];

  // By one thread.
  __device__ void init() {
    own_full.init();
    own_empty.init(kConsumerWarps);
    for (int i = 0; i < kStages; ++i) {
      full[i].init();
      empty[i].init(kConsumerWarps);
    }
    for (int i = 0; i < 2; ++i) {
      list_full[i].init();
      list_empty[i].init();
    }
    for (int& shares : gate_shares) shares = 0;
    publish_barriers();
  }
};

template <int slots>
struct RingPlace {
  int slot = 0, parity = 0;

  __device__ void advance() {
    if (++slot < slots) return;
    slot = 0;
    parity ^= 1;
  }
};

struct RingWork {
  const WorkItem* items;
  int n;            // items times the sequences that share them
  int* ticket;      // 0 at first
  bool keeps_rows;  // whole: of a row that was cut, the first segment stands for all
};

// Draws items and lists their visits, by a warp.
template <int D, bool kOwnsKeys>
struct Lister {
  const Problem& p;
  const RingWork& work;
  Ring<D, kOwnsKeys>& ring;
  RingPlace<2> place;

  __device__ void run() {
    for (;;) {
      const int number = warp_uniform(lane_id() == 0 ? atomicAdd(work.ticket, 1) : 0);
      if (number >= work.n) break;
      constexpr bool kByKvHead = kOwnsKeys;
      const int heads = kByKvHead ? p.G : p.H;
      Place at{};
      at.item = work.items[number / p.sharing];
      at.b = number % p.sharing + at.item.head / heads;
      at.item.head %= heads;
      at.first = at.item.tile * kOwnRows;
      if (at.item.slot < 0 || !work.keeps_rows || make_whole(at)) list(at);
    }
    begin_list();
    end_list({}, -1, true, true);
  }

 private:
  // Whether the segment is its row's first; then it is the row.
  __device__ bool make_whole(Place& at) const {
    WorkItem& item = at.item;
    item.slot = -1;
    if constexpr (kOwnsKeys) {
      if (item.begin != 0) return false;
      item.end = 0;
      for (int i = 0; i < p.H / p.G; ++i) {
        const std::int32_t* offsets = p.col_offsets + column_of(p, at, item.head * (p.H / p.G) + i);
        item.end += offsets[1] - offsets[0];
      }
      return true;
    } else {
      const std::int64_t pattern = p.head_pattern[p.layout_head(at.b, item.head)];
      const std::int32_t* offsets = p.row_offsets + pattern * (p.query_tiles + 1) + item.tile;
      item.end = offsets[1];
      return item.begin == offsets[0];
    }
  }
  __device__ void begin_list() { ring.list_empty[place.slot].wait(place.parity ^ 1); }
  __device__ void end_list(const Place& at, int visits, bool first, bool last) {
    if (lane_id() == 0) {
      List& list = ring.lists[place.slot];
      list.at = at;
      list.visits = visits;
      list.first = first;
      list.last = last;
    }
    __syncwarp();
    if (lane_id() == 0) ring.list_full[place.slot].arrive();
    place.advance();
  }
  __device__ void list(const Place& at) {
    bool first = true;
    int n = 0;
    begin_list();
    for (int base = at.item.begin; base < at.item.end; base += kWarpSize) {
      if (n + kWarpSize > kMostVisits) {
        end_list(at, n, first, false);
        first = false;
        n = 0;
        begin_list();
      }
      Visit visit;
      const int i = base + lane_id();
      const bool kept = i < at.item.end && consider_visit<!kOwnsKeys>(p, at, i, visit);
      const unsigned all = __ballot_sync(kWholeWarp, kept);
      if (kept) ring.lists[place.slot].visit[n + __popc(all & ((1u << lane_id()) - 1u))] = visit;
      n += __popc(all);
    }
    end_list(at, n, first, true);
  }
};

// Starts the copies, by one thread. own: maps of x and y of own rows; streamed likewise.
template <int D, bool kOwnsKeys>
struct Copier {
  using R = Ring<D, kOwnsKeys>;
  const Problem& p;
  const Maps& maps;
  R& ring;
  RingPlace<R::kStages> place;
  int gate_slot = 0;
  int unwanted[kGroups] = {};  // steps since the last that the group wanted

  __device__ void run() {
    RingPlace<2> list_place;
    for (int number = 0;; list_place.advance()) {
      ring.list_full[list_place.slot].wait(list_place.parity);
      const List& list = ring.lists[list_place.slot];
      if (list.first) ring.own_empty.wait((number & 1) ^ 1);
      if (list.visits < 0) break;
      if (list.first) copy_own(list.at, number++);
      for (int v = 0; v < list.visits; ++v) add_visit(list.at, list.visit[v]);
      if (list.last) {
        begin_step().flags = kEndsItem;
        ring.full[place.slot].arrive();
        place.advance();
      }
      ring.list_empty[list_place.slot].arrive();
    }
    ring.is_over = true;
    ring.own_full.arrive();
  }

 private:
  __device__ void copy(const CUtensorMap& map, int head, int row, int b, void* to,
                       CopyBarrier& barrier) const {
    copy_to_panels<D>(map, head * D, row, b, shared_address(to), kRingPanel, barrier);
  }
  __device__ void copy_own(const Place& at, int number) {
    ring.places[number & 1] = at;
    ring.is_over = false;
    ring.own_full.arm(2 * kGroups * R::kMatrix);
    for (int g = 0; g < kGroups; ++g) {
      const int row = at.first + g * kGroupRows;
      copy(kOwnsKeys ? maps.k : maps.q, at.item.head, row, at.b, ring.own[g][0], ring.own_full);
      copy(kOwnsKeys ? maps.v : maps.o_grad, at.item.head, row, at.b, ring.own[g][1], ring.own_full);
    }
  }
  __device__ Step& begin_step() {
    ring.empty[place.slot].wait(place.parity ^ 1);
    return ring.steps[place.slot];
  }
  __device__ void add_visit(const Place& at, const Visit& visit) {
    // A gate's gradient waits for all shares of it.
    const bool wants_all = !kOwnsKeys && p.gate_grad;
    const int end = min(kOwnRows, (kOwnsKeys ? p.N : p.M) - visit.first);
    for (int row = 0; row < end; row += kGroupRows) {
      std::uint32_t parts = visit.parts >> (row / kGroupRows * 16) & 0xffffu;
      if (parts == 0 && !wants_all) continue;
      std::uint32_t wanted = 0;
#pragma unroll
      for (int g = 0; g < kGroups; ++g, parts >>= 2) {
        // A group keeps a stage until it has its next, for which the ring must have room beside what the
        // other group wants.
        const bool is_wanted = (parts & 0x3333u) || wants_all || unwanted[g] == R::kStages - 2;
        unwanted[g] = is_wanted ? 0 : unwanted[g] + 1;
        if (is_wanted) wanted |= kWantedByFirst << g;
      }
      Step& step = begin_step();
      step.visit = visit;
      step.streamed = row;
      step.gate_slot = gate_slot;
      step.flags = visit.flags | wanted | (row + kGroupRows >= end ? kEndsVisit : 0u);
      copy_streamed(at, visit.head, visit.first + row);
      place.advance();
    }
    gate_slot = (gate_slot + 1) % kGateSlots;
  }
  __device__ void copy_streamed(const Place& at, int head, int row) {
    CopyBarrier& full = ring.full[place.slot];
    constexpr int kConstants = kGroupRows * sizeof(float);
    full.arm(2 * R::kMatrix + (kOwnsKeys ? 2 * kConstants : 0));
    const int of = kOwnsKeys ? head : at.item.head / (p.H / p.G);
    copy(kOwnsKeys ? maps.q : maps.k, of, row, at.b, ring.stages[place.slot][0], full);
    copy(kOwnsKeys ? maps.o_grad : maps.v, of, row, at.b, ring.stages[place.slot][1], full);
    if constexpr (kOwnsKeys) {
      const std::int64_t constants = p.constants_of(at.b, head) + row;
      copy_bytes(p.log2_sum + constants, kConstants, shared_address(ring.log2_sum[place.slot]), full);
      copy_bytes(p.delta + constants, kConstants, shared_address(ring.delta[place.slot]), full);
    }
  }
};

}  // namespace filigree::cuda::backward16::hopper
