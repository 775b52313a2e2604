// The greatest element of a row and the sum of its exponentials in one pass (Milakov & Gimelshein 2018): the
// sum is rescaled whenever a greater element turns up.
#pragma once

#include <limits>

#include "core/cuda/math.cuh"
#include "core/cuda/pack.cuh"
#include "core/cuda/reduce.cuh"

namespace filigree::cuda {

template <class Acc>
struct OnlineSoftmax {
  static constexpr Acc kNone = -std::numeric_limits<Acc>::infinity();
  Acc greatest, sum;  // sum of e^(x - shift()); NaN does not change `greatest`, but makes the sum NaN

  // Subtracted from the row before exp: 0 where all is -inf.
  __device__ Acc shift() const { return greatest == kNone ? Acc(0) : greatest; }

  template <class T>
  __device__ void add(const Pack<T>& x) {
    OnlineSoftmax next{greatest, 0};
#pragma unroll
    for (int i = 0; i < kPackSize<T>; ++i) next.greatest = std::fmax(next.greatest, x[i]);
    const Acc s = next.shift();
    next.sum = sum * fast_exp(greatest - s);
#pragma unroll
    for (int i = 0; i < kPackSize<T>; ++i) next.sum += fast_exp(x[i] - s);
    *this = next;
  }
};

struct MergeSoftmax {
  template <class Acc>
  __device__ OnlineSoftmax<Acc> operator()(const OnlineSoftmax<Acc>& a, const OnlineSoftmax<Acc>& b) const {
    OnlineSoftmax<Acc> both{std::fmax(a.greatest, b.greatest), 0};
    const Acc s = both.shift();
    both.sum = a.sum * fast_exp(a.greatest - s) + b.sum * fast_exp(b.greatest - s);
    return both;
  }
};

// The softmax of the row [n] that this team shares.
template <class T>
__device__ inline OnlineSoftmax<compute_t<T>> softmax_of_row(const T* row, std::int64_t n, bool wide) {
  using Acc = compute_t<T>;
  const OnlineSoftmax<Acc> none{OnlineSoftmax<Acc>::kNone, 0};
  OnlineSoftmax<Acc> state = none;
  const std::int64_t step = std::int64_t{blockDim.x} * kPackSize<T>;
  for (std::int64_t c = std::int64_t{threadIdx.x} * kPackSize<T>; c < n; c += step)
    state.add(load_pack(row + c, n - c, wide, narrow<T>(OnlineSoftmax<Acc>::kNone)));
  return team_reduce(state, none, MergeSoftmax{});
}

}  // namespace filigree::cuda
