// In-place arithmetic and scans of gradients and parameters.
#include <algorithm>
#include <bit>
#include <limits>
#include <type_traits>

#include "core/cpu/partition.h"
#include "core/cpu/reduce.h"
#include "core/kernels.h"

namespace filigree::cpu {

void add_in_place(Context, const Tensor& x, Tensor& into) {
  with_float(x.dtype(), [&]<class T>(T) {
    const T* from = x.data<T>();
    T* to = into.data<T>();
    parallel_elements(x.numel(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) to[i] += from[i];
    });
  });
}

void scale_in_place(Context, double factor, Tensor& x) {
  with_float(x.dtype(), [&]<class T>(T) {
    T* values = x.data<T>();
    parallel_elements(x.numel(), [=, f = static_cast<T>(factor)](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) values[i] *= f;
    });
  });
}

void sum_of_squares(Context, std::span<const Tensor> tensors, Tensor& result) {
  double total = 0;
  for (const Tensor& x : tensors)
    with_float(x.dtype(), [&]<class T>(T) {
      const T* values = x.data<T>();
      const auto sums = partial_results<double>(x.numel(), [=](std::int64_t begin, std::int64_t end) {
        return lane_sum<double>(end - begin, [from = values + begin](std::int64_t i) {
          const double v = from[i];
          return v * v;
        });
      });
      double sum = 0;
      for (const double s : sums) sum += s;
      total += sum;
    });
  result.data<double>()[0] = total;
}

void all_finite(Context, const Tensor& x, bool& result) {
  with_float(x.dtype(), [&]<class T>(T) {
    const T* values = x.data<T>();
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    // A float is infinite or NaN where all bits of its exponent, those of infinity, are set.
    constexpr Bits kExponent = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
    const auto bad = partial_results<int>(x.numel(), [=](std::int64_t begin, std::int64_t end) {
      const auto greater = [](Bits a, Bits b) { return a > b ? a : b; };
      const auto exponent = [=](std::int64_t i) {
        return std::bit_cast<Bits>(values[begin + i]) & kExponent;
      };
      return static_cast<int>(lane_reduce(end - begin, Bits{0}, greater, exponent) == kExponent);
    });
    result = std::ranges::find(bad, 1) == bad.end();
  });
}

}  // namespace filigree::cpu
