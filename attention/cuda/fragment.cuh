// The vocabulary of the attention kernels on tensor cores: fragments of scores, spread over a warp as the
// accumulators of mma.m16n8 and of wgmma.m64 alike, and what is done to them between two products. A lane has
// rows lane / 4 and lane / 4 + 8 of its warp's 16 and, of every 8 columns, two neighbours.
#pragma once

#include <limits>

#include "attention/cuda/mma.cuh"

namespace filigree::cuda {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;
// Shifts follow the maxima of S only when they fall behind by more than this factor, in powers of 2: f32 has
// room for that, and most steps need not rescale the sums.
inline constexpr float kSlack = 8;
// e^(S - lse) of a gate near 0 may be anything; above 2^100 it is cut, so that m e^(S - lse) stays 0 at m = 0
// and the gate's gradient finite.
inline constexpr float kGreatestExponent = 100;

template <int columns>
struct Fragment {
  float x[columns / 8][4];

  // The lane's first row and column. Of element [n][i], the row is i / 2 * 8 further on, the column 8 n + i
  // % 2.
  __device__ static int row() { return lane_id() / 4; }
  __device__ static int column() { return lane_id() % 4 * 2; }

  // Calls f(element, half, column): half 0 or 1 is the row, the column is without column().
  template <class F>
  __device__ void for_each(F&& f) {
#pragma unroll
    for (int n = 0; n < columns / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) f(x[n][i], i / 2, 8 * n + i % 2);
  }
  __device__ void clear() {
    for_each([](float& e, int, int) { e = 0; });
  }
};

// A fragment, rounded: a left operand of the next product.
template <int columns>
struct Rounded {
  std::uint32_t x[columns / 16][4];

  __device__ void round(const Fragment<columns>& c, float factor) {
#pragma unroll
    for (int k = 0; k < columns / 16; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        x[k][i] =
            pack_bf16(factor * c.x[2 * k + i / 2][i % 2 * 2], factor * c.x[2 * k + i / 2][i % 2 * 2 + 1]);
  }
  __device__ void operator=(const Fragment<columns>& c) {
    round(c, 1);
  }
  __device__ float element(int n, int i) const {
    const std::uint32_t two = x[n / 2][n % 2 * 2 + i / 2];
    return __uint_as_float(i % 2 ? two & 0xffff0000u : two << 16);
  }
};

struct KeyRange {
  int low, high;  // keys [low, high)

  // Bit c: whether key `first` + c is one of them.
  __device__ std::uint32_t bits(int first) const { return low_bits(high - first) & ~low_bits(low - first); }
};

// Of several queries: the keys from the first to the last that some of them may see, and those that all may
// see.
struct alignas(16) JointRange {
  KeyRange some, all;

  __device__ bool touch(int begin, int end) const { return some.low < end && begin < some.high; }
  __device__ bool cover(int begin, int end) const { return all.low <= begin && end <= all.high; }
};

}  // namespace filigree::cuda
