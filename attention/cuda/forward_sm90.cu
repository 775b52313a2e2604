// Forward in bf16 on Hopper; D = 64 and 128, T = 64 and 128.
//
// A CTA stays on its multiprocessor and draws work items by a ticket, longest first. An item is a group of
// blocks of 64 queries of one head, one block for each of its warpgroups (three, or two at D = 128, as the
// registers allow), and the visits that these blocks need together (attention/device_layout.h), 128 keys
// each. One warp, the producer, draws the items, drops the visits that gates of 0 or the row bounds leave
// nothing of, and keeps a ring of slots filled by the tensor memory accelerator, each with the keys or the
// values of a visit. The warpgroups go along the ring at their own pace and pass over what is none of theirs.
// For each visit, a warpgroup computes for its 64 queries
//   S = Q K^T,   P = 2^(factor S + gate - shift),   sum += P,   O += P V
// where the products for the next visit's S are started before those for this one's O: while the tensor cores
// compute O, the warps bring the next S to powers (after FlashAttention-3, Shah et al. 2024). P never leaves
// the registers. Masks cost only where a visit has them, and the loop without them has no branch.
//
// `shift` keeps the powers within what f32 holds, and that is all it has to do: bf16 has the range of f32,
// and o and lse do not depend on it. So the maximum of a row is taken once, in the first visit that it sees
// keys of, and the scores of later visits are not searched for a greater one: that would take a third of the
// time between two products. If a sum of the new powers is above kHighest, the warp computes its S once more,
// by itself, and takes the maximum then.
//
// Floors per visit and block, in cycles of a multiprocessor (2,048 multiply-adds of the tensor cores and 16
// powers each): 512 of products and 512 of powers at D = 64, 1,024 and 512 at D = 128.
#include "attention/cuda/forward_sm90.cuh"

namespace filigree::cuda::forward16 {
namespace hopper {
namespace {

// --- a warpgroup that computes. A lane has rows `row` and `row` + 8 of its block and, of every 8 columns of
// an accumulator, column() and the next (wgmma.cuh) ---

template <int D>
struct Consumer {
  using S = Sizes<D>;
  const VisitProblem& p;
  Shared<D>& shared;
  const int group;
  const int row = warp_id() % 4 * 16 + lane_id() / 4;
  RingPlace<S::kSlots> ring;
  RingPlace<2> queries;
  float shift[2], sum[2];  // of the lane's own columns
  bool settled;            // all rows of the warp have a shift
  float s[kVisitKeys / 8][4];
  std::uint32_t powers[kVisitKeys / 16][4];
  float o[D / 8][4];

  __device__ static int column() { return lane_id() % 4 * 2; }
  __device__ const Work& work() const { return shared.work[queries.slot]; }
  __device__ int first_query() const { return work().first_row + group * kVisitBlock; }
  __device__ std::uint32_t own_queries() const { return shared_address(shared.queries[queries.slot][group]); }

  // Calls f(score, half of the lane's rows, half of the keys, key of those without column()).
  template <class F>
  __device__ void for_each_score(F&& f) {
#pragma unroll
    for (int n = 0; n < kVisitKeys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) f(s[n][i], i / 2, n / 8, n % 8 * 8 + i % 2);
  }

  __device__ void run() {
    if (S::kTakesTurns && group == S::kGroups - 1) pass_turn();  // the first turn is warpgroup 0's
    for (;; queries.next()) {
      shared.queries_full[queries.slot].wait(queries.parity);
      if (warp_uniform(work().head) < 0) return;
      settled = false;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        shift[r] = kNoShift;
        sum[r] = 0;
      }
#pragma unroll
      for (int d = 0; d < D / 8; ++d)
#pragma unroll
        for (int i = 0; i < 4; ++i) o[d][i] = 0;
      attend();
      write_result();
      fence_copies();
      shared.queries_empty[queries.slot].arrive();
    }
  }

  __device__ void attend() {
    bool due = false;  // `powers` wait for their values
    for (bool first = true;; first = false) {
      const int keys = take();
      const int kind = of_lane_0(shared.visits[keys].kind[group]);
      take_turn();
      if (kind >= kFull) {
        bool raised;
        float shrink[2];
        multiply_keys(keys);
        if (due) {
          const int values = take();
          add_values(values);
          pass_turn();
          wait_for_products<1>();
          pin(s);
          raised = soften(keys, kind, shrink);
          wait_for_products<0>();
          pin(o);
          release(values);
        } else {
          pass_turn();
          if (!first) release(take());
          wait_for_products<0>();
          pin(s);
          raised = soften(keys, kind, shrink);
        }
        if (raised) scale_rows(shrink);
        round_to_operand(s, powers);
        due = true;
        continue;
      }
      release(keys);
      if (due) {
        const int values = take();
        add_values(values);
        pass_turn();
        wait_for_products<0>();
        pin(o);
        release(values);
      } else {
        pass_turn();
        if (!first) release(take());
      }
      if (kind == kEnd) return;
      due = false;
    }
  }

  __device__ int take() {
    const int slot = ring.slot;
    shared.full[slot].wait(ring.parity);
    ring.next();
    return slot;
  }
  // The lanes arrive together: what a warp has waited for, they are done with.
  __device__ void release(int slot) {
    __syncwarp();
    if (lane_id() == 0) shared.empty[slot].arrive();
  }
  __device__ void take_turn() const {
    if constexpr (S::kTakesTurns) named_sync(1 + group, 2 * kWarpgroup);
  }
  __device__ void pass_turn() const {
    if constexpr (S::kTakesTurns) named_arrive(1 + (group + 1) % S::kGroups, 2 * kWarpgroup);
  }

  // --- products ---

  __device__ void multiply_keys(int slot) {
    fence_products();
    multiply_rows<D>(s, operand(own_queries()), kQueryPanel, operand(shared_address(shared.slots[slot])),
                     kPanel);
    commit_products();
  }
  __device__ void add_values(int slot) {
    fence_products();
    add_products(o, powers, operand(shared_address(shared.slots[slot]), kPanel));
    commit_products();
  }
  // S of the warp's 16 rows, by the warp alone.
  __device__ void multiply_keys_again(int slot) {
    const std::uint32_t keys = shared_address(shared.slots[slot]);
    for_each_score([](float& x, int, int, int) { x = 0; });
#pragma unroll 1
    for (int d = 0; d < D / 16; ++d) {
      std::uint32_t q[4];
      load_matrices(q, own_queries() + unit_offset(warp_id() % 4 * 16 + lane_id() % 16,
                                                   2 * d + lane_id() / 16, kQueryPanel));
      const std::uint32_t first =
          keys + unit_offset(lane_id() % 8 + lane_id() / 16 * 8, 2 * d + lane_id() / 8 % 2, kPanel);
#pragma unroll
      for (int n = 0; n < kVisitKeys / 16; ++n) {
        std::uint32_t k[4];
        load_matrices(k, first + static_cast<std::uint32_t>(16 * n * kPanelRowBytes));
        multiply_add(s[2 * n], q, k[0], k[1]);
        multiply_add(s[2 * n + 1], q, k[2], k[3]);
      }
    }
  }
  __device__ void scale_rows(const float (&factor)[2]) {
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[d][i] *= factor[i / 2];
  }

  // --- from scores to powers ---

  // S -> powers, added to the sums. Returns whether o has to be scaled by `shrink` before they are used. The
  // first of two ways is the shortest case of the second, without its branches.
  __device__ bool soften(int keys, int kind, float (&shrink)[2]) {
    const VisitInfo<S::kGroups>& visit = shared.visits[keys];
    bool raised = false, again = false;
    float gate[2] = {0, 0};
    if (p.gate) {
      gate[0] = of_lane_0(visit.log2_gate[group][0]);
      gate[1] = of_lane_0(visit.log2_gate[group][1]);
    }
    if (kind == kFull && settled) again = !take_powers(p.log2_scale, gate, true);
    if (kind != kFull || !settled || again) {
      const int key[2] = {of_lane_0(visit.key[0]), of_lane_0(visit.key[1])};
      const int mask[2] = {of_lane_0(visit.mask[group][0]), of_lane_0(visit.mask[group][1])};
      for (bool lazy = settled;;) {
        if (again) {
          multiply_keys_again(keys);
          lazy = false;
        }
        float factor = p.log2_scale;
        if (p.slopes || p.log2_scale <= 0) {
          add_slopes(key);
          factor = 1;
        }
        if ((mask[0] & mask[1]) != kFullTile) apply_masks(key, mask);
        if (!lazy) raised = raise_shifts(factor, gate, shrink);
        if (take_powers(factor, gate, lazy)) break;
        again = true;
      }
    }
    release(keys);
    return raised;
  }

  // Applies the scale too.
  __device__ void add_slopes(const int (&first_key)[2]) {
    const float log2_slope = p.slopes ? static_cast<float>(p.slopes[work().head] * kLog2E) : 0.0f;
    const int query = first_query() + row - column();
    for_each_score([&](float& x, int r, int h, int key) {
      const auto distance = static_cast<float>(query + 8 * r - first_key[h] - key);
      x = fmaf(x, p.log2_scale, -log2_slope * fabsf(distance));
    });
  }

  // -inf where the lane's queries may not see a key.
  __device__ void apply_masks(const int (&first_key)[2], const int (&mask)[2]) {
    std::uint32_t allowed[2][4];         // [half of the rows][key / 32]: bits of keys, from column() on
    const int words = p.mask_words / 2;  // of 64 bits, in a row of a mask
    const int mask_row = row + first_query() % p.tile;
    bool cut = p.row_bounds != nullptr;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      cut |= mask[h] == kCutTile;
      const auto* const from =
          reinterpret_cast<const std::uint64_t*>(p.masks + max(mask[h], 0) * p.mask_size) + mask_row * words +
          (words == 2 ? h : 0);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        std::uint64_t word = mask[h] == kNotVisited ? 0 : ~std::uint64_t{0};
        if (mask[h] >= 0) word = __ldg(from + 8 * r * words);
        allowed[r][2 * h] = static_cast<std::uint32_t>(word);
        allowed[r][2 * h + 1] = static_cast<std::uint32_t>(word >> 32);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const KeyRange range = cut ? key_range(p, work().b, first_query() + row + 8 * r) : KeyRange{0, kNoKey};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const int key = first_key[w / 2] + w % 2 * 32;
        if (cut) allowed[r][w] &= low_bits(range.high - key) & ~low_bits(range.low - key);
        allowed[r][w] >>= column();
      }
    }
    for_each_score([&](float& x, int r, int h, int key) {
      if (!(allowed[r][2 * h + key / 32] >> (key % 32) & 1u)) x = kMinusInfinity;
    });
  }

  // S -> 2^(factor S + gate - shift), added to the sums; if they are too great and `lazy`, returns false.
  __device__ bool take_powers(float factor, const float (&gate)[2], bool lazy) {
    const float less[2][2] = {{gate[0] - shift[0], gate[1] - shift[0]},
                              {gate[0] - shift[1], gate[1] - shift[1]}};
    float added[2][2] = {};
    for_each_score([&](float& x, int r, int h, int key) {
      x = fast_exp2(fmaf(x, factor, less[r][h]));
      added[r][key / 8 % 2] += x;
    });
    const float first = added[0][0] + added[0][1], second = added[1][0] + added[1][1];
    if (lazy && __any_sync(kWholeWarp, fmaxf(first, second) > kHighest)) return false;
    sum[0] += first;
    sum[1] += second;
    return true;
  }

  // Lets the shifts follow the maxima of factor s + gate where they are far behind, and scales the sums, but
  // for o: that by `shrink`, if true is returned. A NaN is no maximum, and its power is NaN.
  __device__ bool raise_shifts(float factor, const float (&gate)[2], float (&shrink)[2]) {
    float greatest[2][2] = {{kMinusInfinity, kMinusInfinity}, {kMinusInfinity, kMinusInfinity}};
    for_each_score([&](float& x, int r, int h, int) { greatest[r][h] = fmaxf(greatest[r][h], x); });
    bool behind = false;
    float of_row[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float x = fmaxf(fmaf(greatest[r][0], factor, gate[0]), fmaf(greatest[r][1], factor, gate[1]));
      x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 1));
      of_row[r] = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 2));
      behind |= of_row[r] > shift[r] + kSlack;
    }
    if (!__any_sync(kWholeWarp, behind)) return false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float raised = fmaxf(shift[r], of_row[r]);
      shrink[r] = fast_exp2(shift[r] - raised);
      shift[r] = raised;
      sum[r] *= shrink[r];
    }
    settled = __all_sync(kWholeWarp, fminf(shift[0], shift[1]) > kNoShift);
    return true;
  }

  // --- results ---

  // A row without keys has o = 0 and lse = -inf. A NaN sum must stay visible, hence no comparison with > 0.
  __device__ void write_result() {
    float lse[2], factor[2];  // lse in units of log 2
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(kWholeWarp, sum[r], 1);
      sum[r] += __shfl_xor_sync(kWholeWarp, sum[r], 2);
      factor[r] = sum[r] == 0 ? 0.0f : __fdividef(1.0f, sum[r]);
      lse[r] = sum[r] == 0 ? kMinusInfinity : shift[r] + log2f(sum[r]);
    }
    scale_rows(factor);
    if (work().slot >= 0) return write_segment(lse);
    named_sync(1 + S::kGroups + group, kWarpgroup);  // the queries, whose place o takes, have been read
    const std::int64_t first = static_cast<std::int64_t>(work().b) * p.N, head = work().head;
    write_rounded(o, 1, own_queries(), kQueryPanel, warp_id() % 4 * 16,
                  [&](int block_row, int unit, const uint4& x) {
                    const int n = first_query() + block_row;
                    if (n < p.N)
                      *reinterpret_cast<uint4*>(p.o + ((first + n) * p.H + head) * D + unit * 8) = x;
                  });
    float* const to = p.lse + first * p.H + head * p.N;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int n = first_query() + row + 8 * r;
      if (lane_id() % 4 == 0 && n < p.N) to[n] = kLn2 * lse[r];
    }
  }
  __device__ void write_segment(const float (&lse)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::int64_t slot_row =
          static_cast<std::int64_t>(work().slot) * p.slot_rows + group * kVisitBlock + row + 8 * r;
      float* const to = p.segment_o + slot_row * D + column();
#pragma unroll
      for (int d = 0; d < D / 8; ++d) *reinterpret_cast<float2*>(to + 8 * d) = {o[d][2 * r], o[d][2 * r + 1]};
      if (lane_id() % 4 == 0) p.segment_lse[slot_row] = lse[r];
    }
  }
};

template <int D>
__global__ void __launch_bounds__(Sizes<D>::kThreads, 1)
    forward_kernel(const __grid_constant__ VisitProblem p, const __grid_constant__ Maps maps) {
  using S = Sizes<D>;
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared<D>& shared = *reinterpret_cast<Shared<D>*>(memory);
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  const int group = warp_uniform(static_cast<int>(threadIdx.x) / kWarpgroup);
  if (group == S::kGroups) {
    give_registers<S::kProducerRegisters>();
    if (warp_id() == S::kWarps) Producer<D>{p, maps, shared}.run();
  } else {
    take_registers<S::kRegisters>();
    Consumer<D>{p, shared, group}.run();
  }
}

template <int D>
void launch(Context context, const VisitProblem& p, const Maps& maps) {
  constexpr int kBytes = sizeof(Shared<D>);
  check_cuda(cudaFuncSetAttribute(forward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const auto ctas = static_cast<unsigned>(std::min(p.n_work, multiprocessors(context)));
  forward_kernel<D><<<ctas, Sizes<D>::kThreads, kBytes, stream(context)>>>(p, maps);
  check_launch();
}

}  // namespace
}  // namespace hopper

void launch_hopper(Context context, const Problem& p, const AttentionInput& in, const QueryVisits& visits) {
  const std::int64_t n_work = visits.work.n_items * p.sharing;
  if (n_work == 0) return;
  check(n_work <= std::numeric_limits<std::int32_t>::max(), "attention: too many work items for a launch");
  const hopper::VisitProblem problem{p, static_cast<const Visit*>(visits.visits.raw_data()),
                                     static_cast<const VisitTiles*>(visits.tiles.raw_data()),
                                     static_cast<unsigned*>(visits.ticket.raw_data()),
                                     static_cast<int>(n_work)};
  const hopper::Maps maps{tensor_map(in.q, kVisitBlock), tensor_map(in.k, kVisitBlock),
                          tensor_map(in.v, kVisitBlock)};
  if (in.q.dim() == 64) return hopper::launch<64>(context, problem, maps);
  check(in.q.dim() == 128, "attention: the Hopper kernels were given another head dim");
  hopper::launch<128>(context, problem, maps);
}

}  // namespace filigree::cuda::forward16
