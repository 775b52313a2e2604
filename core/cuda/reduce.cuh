// Reductions over the threads that share a row, always in the same order.
//
// A block is (threads of a row, rows): threads x are the row's team, whole warps; y tells the teams apart.
#pragma once

#include <cstring>

#include "core/cuda/cuda.h"

namespace filigree::cuda {

// Another lane's value of a type made of 32-bit words.
template <class T>
__device__ inline T from_lane(const T& value, int lane) {
  constexpr int kWords = sizeof(T) / sizeof(unsigned);
  static_assert(sizeof(T) % sizeof(unsigned) == 0);
  unsigned words[kWords];
  std::memcpy(words, &value, sizeof(T));
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __shfl_sync(0xffffffffu, words[i], lane);
  T result;
  std::memcpy(&result, words, sizeof(T));
  return result;
}

// Combines the values of a warp's lanes; every lane gets the result that lane 0 computes.
template <class T, class Combine>
__device__ inline T warp_reduce(T value, Combine combine) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = combine(value, from_lane(value, lane ^ offset));
  return from_lane(value, 0);
}

// The same over each team. Where teams have several warps, all threads of the block must call.
template <class T, class Combine>
__device__ inline T team_reduce(T value, T neutral, Combine combine) {
  value = warp_reduce(value, combine);
  const int warps = static_cast<int>(blockDim.x / 32);
  if (warps == 1) return value;
  __shared__ T of_warps[32];
  const int lane = static_cast<int>(threadIdx.x % 32), first_warp = static_cast<int>(threadIdx.y) * warps;
  if (lane == 0) of_warps[first_warp + static_cast<int>(threadIdx.x / 32)] = value;
  __syncthreads();
  value = warp_reduce(lane < warps ? of_warps[first_warp + lane] : neutral, combine);
  __syncthreads();  // of_warps is free again
  return value;
}

// Orders a team's accesses to memory. For grids in which a block is one team, or teams are warps (row_grid).
__device__ inline void team_sync() {
  if (blockDim.x == 32)
    __syncwarp();
  else
    __syncthreads();
}

struct Plus {
  template <class T>
  __device__ T operator()(const T& a, const T& b) const {
    return a + b;
  }
};

template <class T>
__device__ inline T team_sum(T value) {
  return team_reduce(value, T(0), Plus{});
}

// A grid for rows of n elements that are read in packs: one warp per row where rows are short, so that no
// barrier is needed, else one block per row.
struct RowGrid {
  unsigned blocks;
  dim3 threads;
};
inline RowGrid row_grid(std::int64_t rows, std::int64_t n, int pack) {
  constexpr int kPacksPerThread = 4;
  if (n <= 32 * pack * kPacksPerThread) return {static_cast<unsigned>(divide_up(rows, 8)), dim3(32, 8)};
  return {static_cast<unsigned>(rows), dim3(n <= 256 * 2 * pack * kPacksPerThread ? 256 : 1024)};
}
// This thread's row in such a grid.
__device__ inline std::int64_t grid_row() {
  return std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
}

}  // namespace filigree::cuda
