// Backward in bf16 on Hopper, in one pass. A CTA (hopper.cuh) owns 128 keys, each warpgroup 64 of them, in
// steps of 64 queries:
//   S^T = K Q^T,  P^T = m e^(S^T - lse),  dV += P^T dO,  dP^T = V dO^T,  dS^T = P^T (dP^T - Delta),
//   dK += dS^T Q,  and the step's share dS K of dQ
// dK and dV stay in registers. The shares of dQ are added up in global memory, in f32, in a fixed order: for
// each block of 64 queries from the last group of keys to the first. A warp of its own does so: it waits for
// its turn, and says so when it is done. Work is drawn in the order of the turns, so no CTA waits for one
// that has not begun. A gate's gradient, dm = the sum of P0 (dP - Delta) over the tile where P = m P0, comes
// along.
#include "attention/cuda/backward_sm90.cuh"

namespace filigree::cuda::hopper {
namespace backward_pass {
namespace {

// --- a warpgroup ---

template <int D>
struct Consumer {
  const BackwardProblem& p;
  Shared<D>& shared;
  const int group = warpgroup_id();
  RingPlace<kStages> place;
  RingPlace<1> own;
  RingPlace<1> shares;  // as many as steps
  int b, first_key;
  Share due;  // of the step before
  float gate_sum[kHalves<D>];
  Fragment<D> k_grad, v_grad;

  __device__ static void arrive(Barrier& barrier) {
    __syncwarp();
    if (lane_id() == 0) barrier.arrive();
  }
  __device__ static int warp_row() { return warp_id() % 4 * 16; }

  __device__ void run() {
    for (;; ++own.passed) {
      shared.own_full.wait(own.parity());
      const int number = warp_uniform(lane_id() == 0 ? shared.work : 0);
      if (number < 0) break;
      const Work work(p, number, p.H / p.heads_per_kv);
      b = work.b;
      first_key = work.first;
      for (float& sum : gate_sum) sum = 0;
      k_grad.clear();
      v_grad.clear();
      add_steps();
      named_sync(1, kConsumers);  // all products with the own keys and values are over
      arrive(shared.empty[place.slot()]);
      ++place.passed;
      k_grad.for_each([&](float& x, int, int) { x *= p.scale; });
      write_result(work, k_grad, 0, shared.keys[group], p.k_grad);
      write_result(work, v_grad, 1, shared.values[group], p.v_grad);
      fence_proxies();
      arrive(shared.own_empty);
    }
    const int half = D == 64 ? group : 0;
    shared.share_empty[half].wait(shares.parity() ^ 1);
    if (threadIdx.x % (kConsumers / kHalves<D>) == 0) shared.share_at[half].block = Share::kEnd;
    arrive(shared.share_full[half]);
  }

  // Whether there is a step; it is at `place`.
  __device__ bool next_step() {
    shared.full[place.slot()].wait(place.parity());
    return !warp_uniform(shared.steps[place.slot()].is_end);
  }

  // A step's share of dQ is computed when the next step's S has been started: then dS of both warpgroups is
  // there, and the tensor cores have something to do.
  __device__ void add_steps() {
    if (!next_step()) return;
    Fragment<kStepRows<D>> s;
    Fragment<64> share;
    multiply_keys(s);
    for (;;) {
      add_step(s);
      if (!next_step()) break;
      multiply_score_grads(share);
      multiply_keys(s);
      wait_for_products<1>();
      hand_over(share);
    }
    multiply_score_grads(share);
    wait_for_products<0>();
    hand_over(share);
  }

  __device__ void multiply_keys(Fragment<kStepRows<D>>& s) const {
    fence_products();
    multiply_rows<D>(s, shared_address(shared.keys[group]), kOwnPanel,
                     shared_address(shared.queries[place.slot()]), kStepPanel<D>);
    commit_products();
  }

  __device__ void add_step(Fragment<kStepRows<D>>& s) {
    const int slot = place.slot();
    const Step<D>& step = shared.steps[slot];
    const std::uint32_t o_grad = shared_address(shared.o_grad[slot]);
    bool general = p.gate || p.slopes;
    float gates[kHalves<D>];
#pragma unroll
    for (int h = 0; h < kHalves<D>; ++h) {
      general |= warp_uniform(step.halves[h].mask[group]) != kFullTile;
      gates[h] = step.halves[h].gate[group];
    }
    Fragment<kStepRows<D>> ds;
    Rounded<kStepRows<D>> powers, rounded;
    fence_products();
    multiply_rows<D>(ds, shared_address(shared.values[group]), kOwnPanel, o_grad, kStepPanel<D>);
    commit_products();
    wait_for_products<1>();
    pin(s);
    if (general) {
      exponents(step, s);
      s.for_each([&](float& x, int, int) { x = fast_exp2(x > kGreatestExponent ? kGreatestExponent : x); });
      if (p.gate_grad) add_closed_gates(gates, s, ds);
      if (p.gate) s.for_each([&](float& x, int, int column) { x *= gates[column / kBlockRows]; });
      powers = s;
    } else {
      with_constants([&](int n, const float4& c) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          s.x[n][i] = fast_exp2(fmaf(s.x[n][i], p.log2_scale, -(i % 2 ? c.z : c.x)));
      });
      powers = s;
    }
    fence_products();
    add_products(v_grad, powers, o_grad, kStepPanel<D>);
    commit_products();
    wait_for_products<1>();
    pin(ds);
    with_constants([&](int n, const float4& c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) ds.x[n][i] = powers.element(n, i) * (ds.x[n][i] - (i % 2 ? c.w : c.y));
    });
    rounded = ds;
    if (p.gate_grad) {
      float sums[kHalves<D>] = {};
      ds.for_each([&](float& x, int, int column) { sums[column / kBlockRows] += x; });
#pragma unroll
      for (int h = 0; h < kHalves<D>; ++h)
        if (gates[h] != 0) gate_sum[h] += sums[h] / gates[h];
    }
#pragma unroll
    for (int h = 0; h < kHalves<D>; ++h)
      store_transposed(rounded, 4 * h, shared_address(shared.score_grads[shares.passed & 1][h][group]),
                       warp_row());
    fence_proxies();
    if (p.gate_grad && step.ends_visit) leave_gate_sums();
    wait_for_products<0>();
    pin(v_grad);
    named_sync(1, kConsumers);  // dS is there
    if (p.gate_grad && step.ends_visit) write_gate_gradients(step);
    const Half& own = step.halves[D == 64 ? group : 0];  // whose share the warpgroup computes
    due = {own.before == kNoTurn ? Share::kNothing : (b * p.H + own.head) * p.blocks + own.query / kBlockRows,
           own.before, first_key / kOwnRows};
    ++place.passed;
  }

  // Where m = 0, of P0 and dP nothing is wanted but dm.
  __device__ void add_closed_gates(const float (&gates)[kHalves<D>], Fragment<kStepRows<D>>& s,
                                   Fragment<kStepRows<D>>& ds) {
    wait_for_products<0>();
    pin(ds);
    with_constants([&](int n, const float4& c) {
      if (gates[n / 8] == 0)
#pragma unroll
        for (int i = 0; i < 4; ++i) gate_sum[n / 8] += s.x[n][i] * (ds.x[n][i] - (i % 2 ? c.w : c.y));
    });
  }

  // dK += dS^T Q; and dS K, of which each warpgroup has half of the columns, or one of two blocks.
  __device__ void multiply_score_grads(Fragment<64>& share) {
    const auto grads = [&](int half, int of_group) {
      return operand(shared_address(shared.score_grads[shares.passed & 1][half][of_group]));
    };
    const std::uint64_t q =
        operand(shared_address(shared.queries[(place.passed - 1) % kStages]), kStepPanel<D>);
    const std::uint64_t k = operand(shared_address(shared.keys[0]) + (D == 128 ? group * kOwnPanel : 0));
    const std::uint64_t all = grads(D == 64 ? group : 0, 0);
    fence_products();
#pragma unroll
    for (int i = 0; i < kStepRows<D> / 16; ++i)
      product<kColumns, kColumns>(k_grad, grads(i / 4, group) + i % 4 * kSixteenRows, q + i * kSixteenRows,
                                  1);
#pragma unroll
    for (int i = 0; i < kOwnRows / 16; ++i)
      product<kRows, kColumns>(
          share, all + static_cast<std::uint64_t>(i / 4 * (kOwnPanel / 16)) + i % 4 * kSixteenColumns,
          k + static_cast<std::uint64_t>(i / 4 * (kOwnBytes<D> / 16)) + i % 4 * kSixteenRows, i > 0);
    commit_products();
  }

  // The step's products are over: its stage is free, and its share of dQ goes on its way.
  __device__ void hand_over(Fragment<64>& share) {
    constexpr int kThreadsOf = kConsumers / kHalves<D>;
    const int half = D == 64 ? group : 0, thread = static_cast<int>(threadIdx.x) % kThreadsOf;
    pin(k_grad);
    pin(v_grad);
    pin(share);
    arrive(shared.empty[(place.passed - 1) % kStages]);
    shared.share_empty[half].wait(shares.parity() ^ 1);
    auto* const to = reinterpret_cast<float4*>(shared.share[half]) + thread;
#pragma unroll
    for (int n = 0; n < 8; ++n)
      to[n * kThreadsOf] = {share.x[n][0], share.x[n][1], share.x[n][2], share.x[n][3]};
    if (thread == 0) shared.share_at[half] = due;
    fence_proxies();
    arrive(shared.share_full[half]);
    ++shares.passed;
  }

  // f(n, constants of the lane's two queries of columns 8 n to 8 n + 7): log2 of the sum, delta, twice.
  template <class F>
  __device__ void with_constants(F&& f) const {
    const float2* const constants = shared.constants[place.slot()] + k_grad.column();
#pragma unroll
    for (int n = 0; n < kStepRows<D> / 8; ++n) f(n, *reinterpret_cast<const float4*>(constants + 8 * n));
  }

  // K Q^T -> S - lse in units of log 2, -inf where the pair is not allowed.
  __device__ void exponents(const Step<D>& step, Fragment<kStepRows<D>>& s) const {
    with_constants([&](int n, const float4& c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s.x[n][i] = fmaf(s.x[n][i], p.log2_scale, -(i % 2 ? c.z : c.x));
    });
    const int key = first_key + group * kGroupRows + warp_row() + s.row();
#pragma unroll
    for (int h = 0; h < kHalves<D>; ++h) {
      const Half& half = step.halves[h];
      const int mask = warp_uniform(half.mask[group]);
      // f(query, of the block's, the lane's two elements of it)
      const auto for_each_query = [&](auto&& f) {
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int i = 0; i < 2; ++i) f(8 * n + s.column() + i, s.x[8 * h + n][i], s.x[8 * h + n][2 + i]);
      };
      if (p.slopes) {
        const float log2_slope = p.slopes[half.head] * kLog2E;
        for_each_query([&](int i, float& x, float& y) {
          x -= log2_slope * fabsf(static_cast<float>(half.query + i - key));
          y -= log2_slope * fabsf(static_cast<float>(half.query + i - key - 8));
        });
      }
      if (mask == kNotVisited) for_each_query([](int, float& x, float& y) { x = y = -kInfinity; });
      if (mask >= 0) {
        const auto* const words = reinterpret_cast<const std::uint32_t*>(p.masks + mask) + warp_row() / 32;
        const int bit = warp_row() % 32 + s.row();
        for_each_query([&](int i, float& x, float& y) {
          const std::uint32_t allowed = __ldg(words + i * p.words() * 2) >> bit;
          if (!(allowed & 1u)) x = -kInfinity;
          if (!(allowed & 0x100u)) y = -kInfinity;
        });
      }
      if (p.row_bounds || mask == kCutTile)
        for_each_query([&](int i, float& x, float& y) {
          const KeyRange range = key_range(p, b, half.query + i);
          if (key < range.low || key >= range.high) x = -kInfinity;
          if (key + 8 < range.low || key + 8 >= range.high) y = -kInfinity;
        });
    }
  }

  // Leaves the warp's part of the gradients of the step's gates, and adds up what all have left.
  __device__ void leave_gate_sums() {
#pragma unroll
    for (int h = 0; h < kHalves<D>; ++h) {
#pragma unroll
      for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2)
        gate_sum[h] += __shfl_xor_sync(kWholeWarp, gate_sum[h], lanes);
      if (lane_id() == 0) shared.gate_sums[shares.passed & 1][h][warp_id()] = gate_sum[h];
      gate_sum[h] = 0;
    }
  }
  // A tile of 128 has the step or what was left of it, one of 64 a half, with one of the warpgroups.
  __device__ void write_gate_gradients(const Step<D>& step) const {
    if (threadIdx.x % kWarpgroup != 0 || (p.tile == 128 && group > 0)) return;
    float sum = 0;
    for (int h = 0; h < kHalves<D>; ++h) {
      const Half& half = step.halves[h];
      if (p.tile == 64) sum = 0;
      for (int w = 4 * group; w < (p.tile == 128 ? kConsumerWarps : 4 * group + 4); ++w)
        sum += shared.gate_sums[shares.passed & 1][h][w];
      if (p.tile == 128 && h + 1 < kHalves<D>) continue;
      const Half& of = p.tile == 128 ? step.halves[0] : half;
      if (of.mask[group] != kNotVisited)
        p.gate_grad[b * p.gate_size + p.gate_place(b, of.head) + of.number[group]] = sum;
    }
  }

  // The warpgroup's rows of a gradient to where they belong: by way of its own matrix, or to the item's
  // segment.
  __device__ void write_result(const Work& work, Fragment<D>& sums, int kind, unsigned char* matrix,
                               const Rows& gradient) const {
    const int first = group * kGroupRows + warp_row();  // of the CTA's 128
    if (work.slot >= 0) {
      float* const to =
          p.segments +
          ((static_cast<std::int64_t>(work.slot) * 2 + kind) * kOwnRows + first + sums.row()) * D;
#pragma unroll
      for (int d = 0; d < D / 8; ++d)
#pragma unroll
        for (int r = 0; r < 2; ++r)
          *reinterpret_cast<float2*>(to + r * 8 * D + 8 * d + sums.column()) = {sums.x[d][2 * r],
                                                                                sums.x[d][2 * r + 1]};
      return;
    }
    write_rounded(
        sums, shared_address(matrix), kOwnPanel, warp_row(), [&](int row, int unit, const uint4& x) {
          const int key = work.first + group * kGroupRows + row;
          if (key >= p.M) return;
          *reinterpret_cast<uint4*>(
              gradient.at(static_cast<std::int64_t>(work.b) * p.M + key, work.head * D + unit * 8)) = x;
        });
  }
};

// --- kernels ---

template <int D>
__global__ void __launch_bounds__(kThreads, 1)
    gradients_kernel(const __grid_constant__ BackwardProblem p, const __grid_constant__ BackwardMaps maps) {
  extern __shared__ unsigned char memory[];
  Shared<D>& shared = *reinterpret_cast<Shared<D>*>(memory);
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (warpgroup_id() == kGroups) {
    give_registers<kProducerRegisters>();
    const int warp = warp_id() - kConsumerWarps;
    if (warp == 0 && lane_id() == 0) Copier<D>{p, maps, shared}.run();
    if (warp == 1) Lister<KeyPass>{p, shared.lists, {p}}.run(p.H / p.heads_per_kv);
    if (warp == 2 && lane_id() == 0) add_shares(p, shared);
  } else {
    take_registers<kConsumerRegisters>();
    Consumer<D>{p, shared}.run();
  }
}

// The sums of dQ, rounded: a CTA for each block of 64 queries, with the threads that had its shares.
template <int D>
__global__ void __launch_bounds__(2 * D) round_sums_kernel(const __grid_constant__ BackwardProblem p) {
  __shared__ alignas(16) bfloat16 rows[kBlockRows][D + 8];
  const int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const bool any = p.turns[block] != kNoTurn;
  const auto* from =
      reinterpret_cast<const float4*>(p.sums + static_cast<std::int64_t>(block) * (kBlockRows * D)) + thread;
  const int row = thread / 32 % 4 * 16 + thread % 32 / 4, column = thread / kWarpgroup * 64 + thread % 4 * 2;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float4 x = any ? from[n * 2 * D] : float4{0, 0, 0, 0};
    *reinterpret_cast<std::uint32_t*>(&rows[row][column + 8 * n]) = pack_bf16(p.scale * x.x, p.scale * x.y);
    *reinterpret_cast<std::uint32_t*>(&rows[row + 8][column + 8 * n]) =
        pack_bf16(p.scale * x.z, p.scale * x.w);
  }
  __syncthreads();
  const int first = block % p.blocks * kBlockRows, head = block / p.blocks % p.H, b = block / p.blocks / p.H;
  for (int i = thread; i < kBlockRows * D / 8; i += 2 * D) {
    const int n = first + i / (D / 8), unit = i % (D / 8);
    if (n < p.N)
      *reinterpret_cast<uint4*>(p.q_grad.at(static_cast<std::int64_t>(b) * p.N + n, head * D + unit * 8)) =
          *reinterpret_cast<const uint4*>(&rows[i / (D / 8)][unit * 8]);
  }
}

template <int D>
void launch(Context context, const BackwardProblem& p, const BackwardMaps& maps) {
  constexpr int kBytes = sizeof(Shared<D>);
  const int blocks = p.B * p.H * p.blocks;
  check_cuda(cudaFuncSetAttribute(gradients_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  check_cuda(cudaMemsetAsync(p.ticket, 0, sizeof(int), stream(context)));
  check_cuda(cudaMemsetAsync(p.turns, kNoTurn & 0xff, static_cast<std::size_t>(blocks) * sizeof(int),
                             stream(context)));
  if (p.n_work > 0) {
    const int ctas = std::min(p.n_work, multiprocessors(context));
    gradients_kernel<D><<<static_cast<unsigned>(ctas), kThreads, kBytes, stream(context)>>>(p, maps);
    check_launch();
  }
  if (blocks == 0) return;
  round_sums_kernel<D><<<static_cast<unsigned>(blocks), 2 * D, 0, stream(context)>>>(p);
  check_launch();
}

}  // namespace
}  // namespace backward_pass

void launch_backward(Context context, const BackwardProblem& p, const BackwardMaps& maps, int D) {
  if (D == 64) return backward_pass::launch<64>(context, p, maps);
  check(D == 128, "attention: the Hopper kernels were given another head dim");
  backward_pass::launch<128>(context, p, maps);
}

}  // namespace filigree::cuda::hopper
