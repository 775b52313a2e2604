// In-place arithmetic and scans of gradients and parameters.
#include <algorithm>
#include <bit>

#include "core/cpu/partition.h"
#include "core/kernels.h"

namespace filigree::cpu {
namespace {

// A float is infinite or NaN where all exponent bits are set.
bool exponent_is_full(float x) {
  return (std::bit_cast<std::uint32_t>(x) & 0x7f800000u) == 0x7f800000u;
}
bool exponent_is_full(double x) {
  return (std::bit_cast<std::uint64_t>(x) & 0x7ff0000000000000u) == 0x7ff0000000000000u;
}

}  // namespace

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

void sum_of_squares(Context, const Tensor& x, double& result) {
  with_float(x.dtype(), [&]<class T>(T) {
    const T* values = x.data<T>();
    const auto sums = partial_results<double>(x.numel(), [=](std::int64_t begin, std::int64_t end) {
      double s = 0;
#pragma omp simd reduction(+ : s)
      for (std::int64_t i = begin; i < end; ++i) {
        const double v = values[i];
        s += v * v;
      }
      return s;
    });
    result = 0;
    for (const double s : sums) result += s;
  });
}

void all_finite(Context, const Tensor& x, bool& result) {
  with_float(x.dtype(), [&]<class T>(T) {
    const T* values = x.data<T>();
    const auto bad = partial_results<int>(x.numel(), [=](std::int64_t begin, std::int64_t end) {
      int any = 0;
#pragma omp simd reduction(| : any)
      for (std::int64_t i = begin; i < end; ++i) any |= exponent_is_full(values[i]);
      return any;
    });
    result = std::ranges::find(bad, 1) == bad.end();
  });
}

}  // namespace filigree::cpu
