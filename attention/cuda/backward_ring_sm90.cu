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
#include "attention/cuda/backward_elements_sm90.cuh"

namespace filigree::cuda::backward16::hopper {
namespace {

template <int D>
using Sums = float[D / 8][4];

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
struct Consumer : Elements<D, kOwnsKeys> {
  using R = Ring<D, kOwnsKeys>;
  static constexpr bool kOwnInRegisters = D == 64;
  static constexpr int kParts = kOwnInRegisters ? D / 16 : 1;
  static constexpr std::uint32_t kMatrixStep = R::kMatrix / 16, kPanels = kRingPanel / 16 << 16;

  using E = Elements<D, kOwnsKeys>;
  using E::at, E::own_row, E::lane_row, E::lane_column;
  using E::p, E::ring, E::group, E::number, E::s, E::dp, E::rounded_p, E::rounded_ds;

  const Segments& segments;
  RingPlace<R::kStages> place{};
  std::uint32_t flags = 0;  // of the newest step
  Sums<D> dx;
  float dy[kOwnsKeys ? D / 8 : 1][4];
  std::uint32_t own_x[kParts][4], own_y[kParts][4];

  __device__ Consumer(const Problem& problem, const Segments& of, R& in, int number_of_group)
      : E{problem, in, number_of_group}, segments(of) {}

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
    this->gate_sum = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::int64_t row = p.constants_of(at().b, at().item.head) + own_row() + 8 * i;
      this->log2_sum[i] = p.log2_sum[row];
      this->delta[i] = p.delta[row];
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
    this->probabilities(slot, now);
    round_to_operand(s, rounded_p);
    wait_for_products<0>();
    pin(dp);
    for (int next; (next = next_step()) >= 0; slot = next) {
      fence_products();
      add_to_dy(slot);
      multiply(s, own_x, 0, next);
      this->score_gradients(slot, now);
      if constexpr (kOwnsKeys) {
        wait_for_products<1>();
        pin(dy);
        pin(dp);
      }
      this->round_score_gradients();
      fence_products();
      add_to_dx(slot);
      multiply(dp, own_y, 1, next);
      wait_for_products<2>();
      pin(s);
      now = flags;
      this->probabilities(next, now);
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
    this->score_gradients(slot, now);
    this->round_score_gradients();
    fence_products();
    add_to_dx(slot);
    wait_for_products<0>();
    pin(dx);
    if constexpr (kOwnsKeys) pin(dy);
    release(ring.empty[slot]);
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
    Consumer<D, kOwnsKeys>(p, segments, ring, group).run();
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
