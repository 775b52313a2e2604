// What is done to a step's elements between its products in the bf16 backward on Hopper
// (backward_ring_sm90.cu): from S to P and from dP to dS, with masks, bounds, ALiBi and gates.
#pragma once

#include "attention/cuda/backward_ring_sm90.cuh"

namespace filigree::cuda::backward16::hopper {

using Scores = float[8][4];
using RoundedScores = std::uint32_t[4][4];

__device__ inline std::uint32_t multiply_bf16(std::uint32_t a, std::uint32_t b) {
  std::uint32_t c;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}

// Of a warpgroup. Its lane's rows are lane_row() and 8 further on, in columns 8 n + lane_column() and the
// next.
template <int D, bool kOwnsKeys>
struct Elements {
  using R = Ring<D, kOwnsKeys>;

  const Problem& p;
  R& ring;
  const int group;
  int number = 0;  // of the item, of those that the CTA had
  Scores s, dp;
  RoundedScores rounded_p, rounded_ds;
  float log2_sum[2], delta[2], gate_sum;  // of own queries

  __device__ static int lane_row() { return warp_id() % 4 * 16 + lane_id() / 4; }
  __device__ static int lane_column() { return lane_id() % 4 * 2; }
  __device__ const Place& at() const { return ring.places[number & 1]; }
  __device__ int own_row() const { return at().first + group * kGroupRows + lane_row(); }

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
};

}  // namespace filigree::cuda::backward16::hopper
