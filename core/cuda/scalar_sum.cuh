// Sums of all elements to one number, in f64 and in an order that depends on the shape alone: each block
// leaves a partial sum, one more block adds these up and hands the total to `finish`, a functor that stores
// the result.
#pragma once

#include <algorithm>

#include "core/cuda/pack.cuh"
#include "core/cuda/reduce.cuh"

namespace filigree::cuda {

inline constexpr int kSumThreads = 256;

// Term gives an element's summand as f64.
template <class T, class Term>
__device__ inline double sum_of_terms(const T* x, std::int64_t first, std::int64_t end, std::int64_t step,
                                      bool wide, Term term) {
  constexpr int kSize = kPackSize<T>;
  double sum = 0;
  for (std::int64_t at = first; at < end; at += step) {
    const Pack<T> pack = load_pack(x + at, end - at, wide);
#pragma unroll
    for (int i = 0; i < kSize; ++i)
      if (at + i < end) sum += term(pack[i]);
  }
  return sum;
}

template <class T, class Term>
__global__ void __launch_bounds__(kSumThreads)
    partial_sum_kernel(std::int64_t n, bool wide, const T* x, Term term, double* partial) {
  constexpr int kSize = kPackSize<T>;
  const std::int64_t first = (std::int64_t{blockIdx.x} * kSumThreads + threadIdx.x) * kSize;
  const std::int64_t step = std::int64_t{gridDim.x} * kSumThreads * kSize;
  const double sum = team_sum(sum_of_terms(x, first, n, step, wide, term));
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class Finish>
__global__ void __launch_bounds__(kSumThreads)
    finish_sum_kernel(std::int64_t blocks, const double* partial, Finish finish) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < blocks; i += kSumThreads) sum += partial[i];
  sum = team_sum(sum);
  if (threadIdx.x == 0) finish(sum);
}

template <class Finish>
void finish_sum(Context context, std::int64_t blocks, const double* partial, Finish finish) {
  finish_sum_kernel<<<1, kSumThreads, 0, stream(context)>>>(blocks, partial, finish);
  check_launch();
}

// finish(sum of term(x[i])) on the device.
template <class T, class Term, class Finish>
void scalar_sum(Context context, std::int64_t n, const T* x, Term term, Finish finish) {
  constexpr std::int64_t kMaxBlocks = 1024, kBlockPacks = 4 * kSumThreads;
  const std::int64_t blocks = std::min(kMaxBlocks, divide_up(n, kBlockPacks * kPackSize<T>));
  Tensor partial = workspace<double>(context, blocks);
  if (blocks > 0) {
    partial_sum_kernel<<<static_cast<unsigned>(blocks), kSumThreads, 0, stream(context)>>>(
        n, wide(x), x, term, data<double>(partial));
    check_launch();
  }
  finish_sum(context, blocks, data<double>(partial), finish);
}

struct Identity {
  template <class T>
  __device__ double operator()(T x) const {
    return static_cast<double>(x);
  }
};

}  // namespace filigree::cuda
