// What forward and backward on Hopper share (forward_sm90.cu, backward_sm90.cu): the problem, and the visits
// of a CTA. D = 64 and 128, T = 64 and 128.
//
// A CTA owns a group of 128 rows, one tile of 128 or two of 64, and visits the streamed tiles that hold an
// allowed pair with any of them: the union of its tiles' lists. One producer warp lists these visits, another
// copies what they need into the stages of a ring; two warpgroups, each with 64 of the rows, compute. CTAs
// stay and draw their work by tickets; the order of work decides no bit of the results.
#pragma once

#include "attention/cuda/hopper.h"
#include "attention/cuda/wgmma.cuh"

namespace filigree::cuda::hopper {

constexpr int kGroups = 2;                      // warpgroups that compute
constexpr int kOwnRows = kGroups * kGroupRows;  // of a CTA
static_assert(kOwnRows == kGroupOfRows);
constexpr int kThreads = (kGroups + 1) * kWarpgroup;
constexpr int kConsumers = kGroups * kWarpgroup, kConsumerWarps = kConsumers / kWarpSize;
constexpr int kProducerRegisters = 56, kConsumerRegisters = 224;  // of a thread

// Masks of a visit, beside entries of the mask table.
constexpr int kCutTile = kFullTile - 1;  // only the row bounds or the end of the keys forbid pairs
constexpr int kNotVisited = kCutTile - 1;

struct Problem {
  int B, N, M, H, heads_per_kv;
  int sharing, layout_heads;  // as in AttentionInput
  int tile, query_tiles, key_tiles;
  const std::int32_t *head_pattern, *row_offsets, *full_begin, *columns, *mask_id;
  const std::int32_t *col_offsets, *rows, *tile_of;
  const std::int64_t* gate_base;
  const std::uint64_t* masks;
  const float* gate;  // nullptr: 1
  std::int64_t gate_batch_stride;
  const std::int32_t* row_bounds;  // [B, N, 2]; nullptr: every key
  const float* slopes;             // nullptr: no ALiBi
  float scale, log2_scale;         // log2_scale = scale log2(e)
  const WorkItem* items;
  int n_work;   // items times the sequences that share them
  int* ticket;  // 0 at first

  __device__ int words() const { return tile / 64; }  // 64-bit words in a row of a mask
  __device__ int mask_words() const { return tile * words(); }
  __device__ std::int64_t gate_place(int b, int head) const { return gate_base[b * layout_heads + head]; }
  // The word of a mask's row for the warpgroup's rows, or its columns; of a tile of 64, each warpgroup has
  // its own.
  __device__ int mask_word(int mask, int row, int word) const {
    return mask < 0 ? mask : mask * mask_words() + row * words() + (tile == 128 ? word : 0);
  }
  __device__ int own_tile(int group) const { return tile == 128 ? 0 : group; }
};

// `x` of lane 0: tells the compiler that the whole warp has the same.
__device__ inline int warp_uniform(int x) {
  return __shfl_sync(kWholeWarp, x, 0);
}
__device__ inline int warpgroup_id() {
  return warp_uniform(static_cast<int>(threadIdx.x) / kWarpgroup);
}

// What a CTA works on: its rows from `first` on.
struct Work {
  int head, b, first, slot, begin, end;

  __device__ Work(const Problem& p, int number, int heads) {
    const WorkItem item = p.items[number / p.sharing];
    b = number % p.sharing + item.head / heads;
    head = item.head % heads;
    first = item.tile * kOwnRows;
    slot = item.slot < 0 ? -1 : item.slot * p.sharing + b % p.sharing;
    begin = item.begin;
    end = item.end;
  }
};

__device__ inline KeyRange key_range(const Problem& p, int b, int query) {
  if (query >= p.N) return {0, 0};
  if (!p.row_bounds) return {0, p.M};
  const std::int32_t* bounds = p.row_bounds + 2 * (static_cast<std::int64_t>(b) * p.N + query);
  return {max(bounds[0], 0), min(bounds[1], p.M)};
}

// Of a tile's queries, by a warp.
__device__ inline JointRange joint_range(const Problem& p, int b, int first) {
  JointRange joint{{0, p.M}, {0, p.M}};
  if (!p.row_bounds) return joint;
  joint.some = {p.M, 0};
  for (int n = first + lane_id(); n < min(p.N, first + p.tile); n += kWarpSize) {
    const KeyRange range = key_range(p, b, n);
    joint.all = {max(joint.all.low, range.low), min(joint.all.high, range.high)};
    if (range.low < range.high)
      joint.some = {min(joint.some.low, range.low), max(joint.some.high, range.high)};
  }
  return {{__reduce_min_sync(kWholeWarp, joint.some.low), __reduce_max_sync(kWholeWarp, joint.some.high)},
          {__reduce_max_sync(kWholeWarp, joint.all.low), __reduce_min_sync(kWholeWarp, joint.all.high)}};
}

// --- the union of runs, each ascending in the streamed tile ---

constexpr int kNoTile = std::numeric_limits<int>::max();

// What a visit needs to know of one of the CTA's tiles.
struct Seen {
  int mask;    // kNotVisited: nothing
  float gate;  // or its log2
  int number;  // of the tile, absolute
};
// Visits of up to 32 neighbouring streamed tiles, from the lister warp to the copying one.
struct Visits {
  int work;          // number of the item they belong to; -1: there is no more
  bool first, last;  // of the item
  int count;
  int head;             // query head
  int tile[kWarpSize];  // streamed
  Seen seen[kGroups][kWarpSize];
  int before[kWarpSize];  // backward: the group of keys whose turn is before, < 0 if none is
};
struct Lists {
  Visits visits[2];
  Barrier full[2], empty[2];

  __device__ void init() {
    for (int i = 0; i < 2; ++i) {
      full[i].init(kWarpSize);
      empty[i].init(1);
    }
  }
};

// The lister: a warp that draws work and lists its visits, ahead of the warp that copies what they need.
// A Pass knows where the entries of the own tiles are: each has two runs of them.
template <class Pass>
struct Lister {
  const Problem& p;
  Lists& lists;
  Pass pass;
  RingPlace<2> place;
  static constexpr int kRuns = 2 * kGroups;

  // What others may wait for must not be drawn long before it begins: only when the last visits before it are
  // listed, of which few are left by then.
  __device__ void run(int heads) {
    for (int number = draw(); number < p.n_work; number = draw()) list(number, Work(p, number, heads));
    Visits& to = *begin_list();
    if (lane_id() == 0) to.work = -1;
    end_list();
  }

 private:
  __device__ int draw() const { return warp_uniform(lane_id() == 0 ? atomicAdd(p.ticket, 1) : 0); }
  __device__ Visits* begin_list() {
    lists.empty[place.slot()].wait(place.parity() ^ 1);
    return &lists.visits[place.slot()];
  }
  __device__ void end_list() {
    lists.full[place.slot()].arrive();
    ++place.passed;
  }

  // One list after the other for each query head; the last may be empty.
  __device__ void list(int number, const Work& work) {
    bool first = true;
    const auto head_of = [&](int i) {
      return pass.kStreamsKeys ? work.head : work.head * p.heads_per_kv + i;
    };
    const int n_heads = pass.kStreamsKeys ? 1 : p.heads_per_kv;
    for (int i = 0; i < n_heads; ++i) {
      pass.begin(p, work, head_of(i));
      int next = 0, end = 0;  // of run lane_id(), two for each own tile
      if (lane_id() < kRuns && lane_id() / 2 < kOwnRows / p.tile)
        pass.run(p, work, head_of(i), lane_id() / 2, lane_id() % 2, next, end);
      for (;;) {
        // The next 32 entries of each run, of which those within kWindow streamed tiles of the first are
        // taken.
        int tile[kRuns], least = kNoTile;
#pragma unroll
        for (int run = 0; run < kRuns; ++run) {
          const int entry = __shfl_sync(kWholeWarp, next, run) + lane_id();
          tile[run] = entry < __shfl_sync(kWholeWarp, end, run) ? pass.streamed(p, entry) : kNoTile;
        }
#pragma unroll
        for (int run = 0; run < kRuns; ++run) least = min(least, warp_uniform(tile[run]));
        if (least == kNoTile) break;
        Visits& to = *begin_list();
#pragma unroll
        for (int own = 0; own < kGroups; ++own) to.seen[own][lane_id()] = {kNotVisited, 0, 0};
        __syncwarp();
#pragma unroll
        for (int run = 0; run < kRuns; ++run) {
          const bool taken = tile[run] < least + Pass::kWindow;
          const int entry = __shfl_sync(kWholeWarp, next, run) + lane_id();
          if (taken)
            to.seen[run / 2][tile[run] - least] = pass.see(p, work, head_of(i), run / 2, tile[run], entry);
          const int n = __popc(__ballot_sync(kWholeWarp, taken));
          if (lane_id() == run) next += n;
        }
        __syncwarp();
        bool live = false;
        Seen seen[kGroups];
#pragma unroll
        for (int own = 0; own < kGroups; ++own) {
          seen[own] = to.seen[own][lane_id()];
          live |= seen[own].mask != kNotVisited;
        }
        const unsigned all = __ballot_sync(kWholeWarp, live);
        const int at = __popc(all & ((1u << lane_id()) - 1u));
        __syncwarp();
        if (live) {
          to.tile[at] = least + lane_id();
#pragma unroll
          for (int own = 0; own < kGroups; ++own) to.seen[own][at] = seen[own];
        }
        pass.finish(p, work, head_of(i), to, at, live);
        if (lane_id() == 0) {
          to.work = number;
          to.first = first;
          to.last = false;
          to.count = __popc(all);
          to.head = head_of(i);
        }
        first = false;
        end_list();
      }
    }
    Visits& to = *begin_list();
    if (lane_id() == 0) {
      to.work = number;
      to.first = first;
      to.last = true;
      to.count = 0;
    }
    end_list();
  }
};

// The first entry of [begin, end) whose value is not below `least`.
__device__ inline int lower_bound(const std::int32_t* values, int begin, int end, int least) {
  while (begin < end) {
    const int middle = (begin + end) / 2;
    if (values[middle] < least)
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

}  // namespace filigree::cuda::hopper
