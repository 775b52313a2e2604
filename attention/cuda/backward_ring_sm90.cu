// The two passes of the bf16 backward on Hopper, for tiles of 128 rows and D = 64 and 128: one algorithm with
// the roles of queries and keys swapped. A warpgroup owns 64 rows of x and y, and in steps of 64 streamed
// rows
//   S = x X^T,  P = m e^(S - lse),  dP = y Y^T,  dS = P (dP - Delta),  dx += dS X,  and for keys dy += P^T Y
// where x, y are k, v and X, Y are q, dO (then S, P and dS are transposed), or x, y are q, dO and X, Y are k,
// v. Between two products nothing but the dS of keys at D = 128 passes through shared memory: an accumulator,
// rounded, is a left operand.
//
// A step's 64 x 64 elements cost the tensor cores 128 cycles a product at D = 64 and 256 at D = 128, four
// products with own keys and three with own queries; powers cost 256 cycles of the special units, and a
// warp's instructions about 250 cycles. Floors of full causal attention at 1 x 16 heads x 16384, products
// alone at 1.75 GHz: 2.03 ms at D = 64 and 4.06 ms at D = 128. So the tensor cores must never wait for the
// rest: each warpgroup starts the products of the next step before it computes with this one's,
//   dy(i), S(i + 1)  while it computes dS(i),     dx(i), dP(i + 1)  while it computes P(i + 1),
// and needs no registers more for that, since S(i) and dP(i) are rounded by then. Two warpgroups take their
// stages from a ring that other warps fill (backward_ring_sm90.cuh).
#include "attention/cuda/backward_ring_sm90.cuh"

namespace filigree::cuda::backward16::hopper {
namespace {

using Scores = float[8][4];
using RoundedScores = std::uint32_t[4][4];
template <int D>
using Sums = float[D / 8][4];

__device__ std::uint32_t multiply_bf16(std::uint32_t a, std::uint32_t b) {
  std::uint32_t c;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}

template <int n>
__device__ void clear(float (&c)[n][4]) {
#pragma unroll
  for (int i = 0; i < n; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) c[i][j] = 0;
  pin(c);
}

// A warpgroup. Its lane's rows are lane_row() and 8 further on, in columns 8 n + lane_column() and the next.
template <int D, bool kOwnsKeys>
struct Consumer {
  using R = Ring<D, kOwnsKeys>;
  static constexpr bool kOwnInRegisters = D == 64;
  static constexpr int kParts = kOwnInRegisters ? D / 16 : 1;
  static constexpr std::uint32_t kMatrixStep = R::kMatrix / 16, kPanels = kRingPanel / 16 << 16;

  const Problem& p;
  const Segments& segments;
  R& ring;
  const int group;
  int number = 0;  // of the item, of those that the CTA had
  RingPlace<R::kStages> place;
  std::uint32_t flags = 0;  // of the newest step
  Sums<D> dx;
  float dy[kOwnsKeys ? D / 8 : 1][4];
  Scores s, dp;
  RoundedScores rounded_p, rounded_ds;
  std::uint32_t own_x[kParts][4], own_y[kParts][4];
  float log2_sum[2], delta[2], gate_sum;  // of own queries

  __device__ static int lane_row() { return warp_id() % 4 * 16 + lane_id() / 4; }
  __device__ static int lane_column() { return lane_id() % 4 * 2; }

  __device__ void run() {
    for (;; ++number) {
      ring.own_full.wait(number & 1);
      if (warp_uniform(ring.is_over)) return;
      begin_item();
      add_steps();
      if constexpr (!kOwnInRegisters) release(ring.own_empty);
      write_results();
    }
  }

 private:
  __device__ const Place& at() const { return ring.places[number & 1]; }
  __device__ int own_row() const { return at().first + group * kGroupRows + lane_row(); }
  __device__ static void release(CopyBarrier& barrier) {
    __syncwarp();
    if (lane_id() == 0) barrier.arrive();
  }

  __device__ void begin_item() {
    clear(dx);
    if constexpr (kOwnsKeys) clear(dy);
    if constexpr (kOwnInRegisters) {
      const int row = warp_id() % 4 * 16 + lane_id() % 16;
#pragma unroll
      for (int d = 0; d < D / 16; ++d) {
        const std::uint32_t offset = unit_offset(row, 2 * d + lane_id() / 16, kRingPanel);
        load_matrices(own_x[d], shared_address(ring.own[group][0]) + offset);
        load_matrices(own_y[d], shared_address(ring.own[group][1]) + offset);
      }
      fence_copies();
      release(ring.own_empty);
    }
    if constexpr (kOwnsKeys) return;
    gate_sum = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::int64_t row = p.constants_of(at().b, at().item.head) + own_row() + 8 * i;
      log2_sum[i] = p.log2_sum[row];
      delta[i] = p.delta[row];
    }
  }

  // --- steps ---

  // The slot of the next step that the group wants; < 0 where the item ends.
  __device__ int next_step() {
    for (;;) {
      const int slot = place.slot;
      ring.full[slot].wait(place.parity);
      flags = static_cast<std::uint32_t>(warp_uniform(static_cast<int>(ring.steps[slot].flags)));
      place.advance();
      if (flags & (kWantedByFirst << group)) return slot;
      release(ring.empty[slot]);
      if (flags & kEndsItem) return -1;
    }
  }

  __device__ std::uint32_t streamed(int slot, int which) const {
    return shared_address(ring.stages[0][0]) / 16 +
           static_cast<std::uint32_t>(2 * slot + which) * kMatrixStep;
  }
  __device__ void multiply(Scores& c, const std::uint32_t (&own)[kParts][4], int which, int slot) const {
    const std::uint32_t b = streamed(slot, which), a = shared_address(ring.own[group][which]) / 16;
#pragma unroll
    for (int d = 0; d < D / 16; ++d) {
      const std::uint32_t part = static_cast<std::uint32_t>(d / 4 * (kRingPanel / 16) + d % 4 * 2);
      if constexpr (kOwnInRegisters)
        d == 0 ? product_of_rows<false>(c, own[d], b + part) : product_of_rows<true>(c, own[d], b + part);
      else
        d == 0 ? product_of_rows<false>(c, a + part, b + part) : product_of_rows<true>(c, a + part, b + part);
    }
    commit_products();
  }
  __device__ void add_to_dy(int slot) {
    if constexpr (!kOwnsKeys)
      return;
    else
      add_products(dy, rounded_p, streamed(slot, 1) | kPanels);
    commit_products();
  }
  __device__ void add_to_dx(int slot) {
    const std::uint32_t b = streamed(slot, 0) | kPanels;
    if constexpr (R::kStoresScores) {
      const std::uint32_t a = shared_address(ring.scores[group]) / 16;
#pragma unroll
      for (std::uint32_t k = 0; k < 4; ++k) add_product(dx, a + 2 * k, b + k * (16 * kPanelRowBytes / 16));
    } else {
      add_products(dx, rounded_ds, b);
    }
    commit_products();
  }

  // ptxas keeps products under way only within a turn of the loop, not from one to the next.
  __device__ void add_steps() {
    int slot = next_step();
    if (slot < 0) return;
    std::uint32_t now = flags;
    fence_products();
    multiply(s, own_x, 0, slot);
    multiply(dp, own_y, 1, slot);
    wait_for_products<1>();
    pin(s);
    probabilities(slot, now);
    round_to_operand(s, rounded_p);
    wait_for_products<0>();
    pin(dp);
    for (int next; (next = next_step()) >= 0; slot = next) {
      fence_products();
      add_to_dy(slot);
      multiply(s, own_x, 0, next);
      score_gradients(slot, now);
      if constexpr (kOwnsKeys) {
        wait_for_products<1>();
        pin(dy);
        pin(dp);
      }
      round_score_gradients();
      fence_products();
      add_to_dx(slot);
      multiply(dp, own_y, 1, next);
      wait_for_products<2>();
      pin(s);
      now = flags;
      probabilities(next, now);
      wait_for_products<1>();
      pin(s);
      pin(dx);
      release(ring.empty[slot]);
      round_to_operand(s, rounded_p);
      wait_for_products<0>();
      pin(dp);
    }
    fence_products();
    add_to_dy(slot);
    score_gradients(slot, now);
    round_score_gradients();
    fence_products();
    add_to_dx(slot);
    wait_for_products<0>();
    pin(dx);
    if constexpr (kOwnsKeys) pin(dy);
    release(ring.empty[slot]);
  }

  // --- elements ---

  // S -> P, with own queries without the gate.
  __device__ void probabilities(int slot, std::uint32_t now) {
    const float* const log2_sums = ring.log2_sum[slot] + lane_column();
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float2 x{};
      if constexpr (kOwnsKeys) x = *reinterpret_cast<const float2*>(log2_sums + 8 * n);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        s[n][i] = fmaf(s[n][i], p.log2_scale, -(kOwnsKeys ? (i % 2 ? x.y : x.x) : log2_sum[i / 2]));
    }
    if (now & kGeneral) find_exponents(ring.steps[slot], now & kBounded);
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[n][i] = fast_exp2(s[n][i]);
    if (!kOwnsKeys || !p.gate) return;
    const float gate = ring.steps[slot].visit.gate;
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[n][i] *= gate;
  }
  // Where there is more to the exponents than S - lse.
  __device__ void find_exponents(const Step& step, bool bounded) {
    if (p.slopes) add_alibi(step);
    if (step.visit.mask != kFullTile) forbid_by_mask(step);
    if (bounded) forbid_by_bounds(step);
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)  // NaN stays NaN
        s[n][i] = s[n][i] > kGreatestExponent ? kGreatestExponent : s[n][i];
  }

  __device__ void add_alibi(const Step& step) {
    const float slope = p.slopes[step.visit.head] * kLog2E;
    const int distance = step.visit.first + step.streamed + lane_column() - own_row();
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        s[n][i] = fmaf(-slope, static_cast<float>(abs(distance + 8 * n + i % 2 - i / 2 * 8)), s[n][i]);
  }

  __device__ int2 bounds_of(int query) const {
    if (query >= p.N) return {0, 0};
    if (!p.row_bounds) return {0, p.M};
    const std::int32_t* given = p.row_bounds + 2 * (static_cast<std::int64_t>(at().b) * p.N + query);
    return {max(given[0], 0), max(0, min(given[1], p.M))};
  }

  // The lane's 32-bit words of a step, of pairs from the lane's own bit or column on: f(n, c, word) for own
  // keys, with pairs s[n][c] at bit 0 and s[n][2 + c] at bit 8; f(i, half, word) for own queries, with pairs
  // s[4 half + n][2 i + c] at bits 8 n + c. -inf where the word has 0.
  template <class Word>
  __device__ void forbid(Word&& word) {
    if constexpr (kOwnsKeys) {
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const std::uint32_t allowed = word(n, c);
          if (!(allowed & 1u)) s[n][c] = -kInfinity;
          if (!(allowed & 0x100u)) s[n][2 + c] = -kInfinity;
        }
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const std::uint32_t allowed = word(i, half);
#pragma unroll
          for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c)
              if (!(allowed >> (8 * n + c) & 1u)) s[4 * half + n][2 * i + c] = -kInfinity;
        }
    }
  }
  __device__ void forbid_by_mask(const Step& step) {
    const int own = group * kGroupRows + lane_row();
    const auto* mask = reinterpret_cast<const std::uint32_t*>(p.masks) +
                       static_cast<std::int64_t>(step.visit.mask) * kOwnRows * 4;
    if constexpr (kOwnsKeys) {
      mask += 4 * (step.streamed + lane_column()) + own / 32;
      forbid([&](int n, int c) { return __ldg(mask + 4 * (8 * n + c)) >> own % 32; });
    } else {
      mask += 4 * own + step.streamed / 32;
      forbid([&](int i, int half) { return __ldg(mask + 4 * 8 * i + half) >> lane_column(); });
    }
  }
  __device__ void forbid_by_bounds(const Step& step) {
    const int row = own_row(), streamed = step.visit.first + step.streamed;
    if constexpr (kOwnsKeys)
      forbid([&](int n, int c) { return keys_within(bounds_of(streamed + 8 * n + lane_column() + c), row); });
    else
      forbid([&](int i, int half) {
        return keys_within(bounds_of(row + 8 * i), streamed + 32 * half + lane_column());
      });
  }

  // dP -> dP - Delta; and with own queries and a gate, -> dS.
  __device__ void score_gradients(int slot, std::uint32_t now) {
    const float* const deltas = ring.delta[slot] + lane_column();
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float2 x{};
      if constexpr (kOwnsKeys) x = *reinterpret_cast<const float2*>(deltas + 8 * n);
#pragma unroll
      for (int i = 0; i < 4; ++i) dp[n][i] -= kOwnsKeys ? (i % 2 ? x.y : x.x) : delta[i / 2];
    }
    if constexpr (!kOwnsKeys)
      if (p.gate) gated_gradients(ring.steps[slot], now);
  }
  __device__ void gated_gradients(const Step& step, std::uint32_t now) {
    const float gate = step.visit.gate;
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t two = rounded_p[n / 2][n % 2 * 2 + i / 2];
        dp[n][i] *= __uint_as_float(i % 2 ? two & 0xffff0000u : two << 16);
        gate_sum += dp[n][i];
        dp[n][i] *= gate;
      }
    if (p.gate_grad && (now & kEndsVisit)) leave_gate_sum(step);
  }
  // The last of the CTA's warps adds up the shares that all have left.
  __device__ void leave_gate_sum(const Step& step) {
#pragma unroll
    for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2)
      gate_sum += __shfl_xor_sync(kWholeWarp, gate_sum, lanes);
    if (lane_id() == 0) {
      volatile float* const sums = ring.gate_sums[step.gate_slot];
      sums[warp_id()] = gate_sum;
      __threadfence_block();
      if (atomicAdd(&ring.gate_shares[step.gate_slot], 1) == kConsumerWarps - 1) {
        __threadfence_block();
        float sum = 0;
        for (int w = 0; w < kConsumerWarps; ++w) sum += sums[w];
        atomicExch(&ring.gate_shares[step.gate_slot], 0);
        p.gate_grad[at().b * p.gate_size + p.gate_base[p.layout_head(at().b, at().item.head)] +
                    step.visit.number] = sum;
      }
    }
    gate_sum = 0;
  }

  // dP - Delta, or dS already -> rounded dS.
  __device__ void round_score_gradients() {
    round_to_operand(dp, rounded_ds);
    if (kOwnsKeys || !p.gate)
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) rounded_ds[k][i] = multiply_bf16(rounded_ds[k][i], rounded_p[k][i]);
    if constexpr (R::kStoresScores) {
      const int row = warp_id() % 4 * 16 + lane_id() % 16;
#pragma unroll
      for (int k = 0; k < 4; ++k)
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                         shared_address(ring.scores[group]) + unit_offset(row, 2 * k + lane_id() / 16, 0)),
                     "r"(rounded_ds[k][0]), "r"(rounded_ds[k][1]), "r"(rounded_ds[k][2]),
                     "r"(rounded_ds[k][3])
                     : "memory");
      fence_copies();
      named_sync(1 + group, kWarpgroup);
    }
  }

  // --- results ---

  __device__ void write_results() {
    write_result(dx, p.scale, kOwnsKeys ? p.k_grad : p.q_grad, 0);
    if constexpr (kOwnsKeys) write_result(dy, 1, p.v_grad, 1);
  }
  __device__ void write_result(const Sums<D>& sums, float factor, const HeadRows<bfloat16>& gradient,
                               int kind) {
    const int first = group * kGroupRows, end = kOwnsKeys ? p.M : p.N;
    if (at().item.slot >= 0) {
      float* const to = segments.at(p, at(), kind, first + lane_row(), D) + lane_column();
#pragma unroll
      for (int d = 0; d < D / 8; ++d)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          *reinterpret_cast<float2*>(to + i * 8 * D + d * 8) = {factor * sums[d][2 * i],
                                                                factor * sums[d][2 * i + 1]};
      return;
    }
    // 64 columns at a time.
#pragma unroll
    for (int half = 0; half < D / 64; ++half) {
      Scores part;
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) part[n][i] = sums[8 * half + n][i];
      write_rounded(part, factor, shared_address(ring.scores[group]), kRingPanel, warp_id() % 4 * 16,
                    [&](int row, int unit, const uint4& x) {
                      const int own = at().first + first + row;
                      if (own < end)
                        *reinterpret_cast<uint4*>(
                            gradient.at(at().b * end + own, at().item.head * D + 64 * half + unit * 8)) = x;
                    });
    }
  }
};

template <int D, bool kOwnsKeys>
__global__ void __launch_bounds__(kRingThreads, 1)
    ring_kernel(const __grid_constant__ Problem p, const __grid_constant__ Maps maps, RingWork work,
                Segments segments) {
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& ring = *reinterpret_cast<Ring<D, kOwnsKeys>*>(memory);
  if (threadIdx.x == 0) ring.init();
  __syncthreads();
  constexpr bool kMany = D == 128 && kOwnsKeys;
  const int group = warp_uniform(static_cast<int>(threadIdx.x) / kWarpgroup);
  if (group == kGroups) {
    give_registers<kMany ? 24 : kOwnsKeys ? 40 : 56>();
    if (warp_id() == kConsumerWarps) Lister<D, kOwnsKeys>{p, work, ring}.run();
    if (static_cast<int>(threadIdx.x) == kGroups * kWarpgroup + kWarpSize)
      Copier<D, kOwnsKeys>{p, maps, ring}.run();
  } else {
    take_registers<kMany ? 240 : kOwnsKeys ? 232 : 224>();
    Consumer<D, kOwnsKeys>{p, segments, ring, group}.run();
  }
}

template <int D, bool kOwnsKeys>
void launch(Context context, const Problem& p, const Maps& maps, const WorkList& work, bool keeps_rows,
            int* ticket) {
  Tensor room = keeps_rows ? Tensor() : segment_room(context, p, D, work, kOwnsKeys ? 2 : 1);
  const Segments segments{data_or_null<float>(room), kOwnsKeys ? 2 : 1};
  const std::int64_t n = work.n_items * p.sharing;
  check(n <= std::numeric_limits<std::int32_t>::max() / 2, "attention: too many work items for a launch");
  if (n > 0) {
    constexpr int kBytes = sizeof(Ring<D, kOwnsKeys>);
    check_cuda(
        cudaFuncSetAttribute(ring_kernel<D, kOwnsKeys>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    const RingWork ring{static_cast<const WorkItem*>(work.items.raw_data()), static_cast<int>(n), ticket,
                        keeps_rows};
    ring_kernel<D, kOwnsKeys><<<static_cast<unsigned>(std::min<std::int64_t>(n, p.multiprocessors)),
                                kRingThreads, kBytes, stream(context)>>>(p, maps, ring, segments);
    check_launch();
  }
  if (keeps_rows) return;
  add_segments(context, p, D, work, segments, 0, kOwnsKeys ? p.k_grad : p.q_grad, kOwnsKeys ? p.G : p.H,
               kOwnsKeys ? p.M : p.N);
  if (kOwnsKeys) add_segments(context, p, D, work, segments, 1, p.v_grad, p.G, p.M);
}

template <int D>
void launch_both(Context context, const Problem& p, const Maps& maps, const DeviceLayout& layout,
                 bool keeps_rows, int* tickets) {
  launch<D, true>(context, p, maps, layout.key_work, keeps_rows, tickets);
  launch<D, false>(context, p, maps, layout.query_work, keeps_rows, tickets + 1);
}

}  // namespace

void ring_gradients(Context context, const Problem& p, const Maps& maps, int D, const DeviceLayout& layout,
                    bool keeps_rows, int* tickets) {
  check(p.tile == kOwnRows, "attention: the ring's kernels were given another tile");
  if (D == 64) return launch_both<64>(context, p, maps, layout, keeps_rows, tickets);
  check(D == 128, "attention: the Hopper kernels were given another head dim");
  launch_both<128>(context, p, maps, layout, keeps_rows, tickets);
}

}  // namespace filigree::cuda::backward16::hopper
