// Binary arithmetic with suffix broadcast, and the sums that are its gradient.
#include <vector>

#include "core/cpu/partition.h"
#include "core/cpu/reduce.h"
#include "core/kernels.h"

namespace filigree::cpu {
namespace {

// y[i] = f(a[i], b[i % period]). A short b is repeated first, so that the inner loop is long.
template <class T, class F>
void broadcast(std::int64_t n, const T* a, const T* b, std::int64_t period, T* y, F f) {
  constexpr std::int64_t kLong = 512;
  if (n == 0) return;
  std::vector<T> repeated;
  if (period < kLong && period < n) {
    repeated.reserve(kLong + period);
    while (std::ssize(repeated) < kLong) repeated.insert(repeated.end(), b, b + period);
    b = repeated.data();
    period = std::ssize(repeated);
  }
  parallel_elements(n, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end;) {
      const std::int64_t phase = i % period, count = std::min(period - phase, end - i);
      const T *pa = a + i, *pb = b + phase;
      T* py = y + i;
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) py[j] = f(pa[j], pb[j]);
      i += count;
    }
  });
}

template <class F>
void binary(const Tensor& a, const Tensor& b, Tensor& y, F f) {
  with_float(a.dtype(),
             [&]<class T>(T) { broadcast(a.numel(), a.data<T>(), b.data<T>(), b.numel(), y.data<T>(), f); });
}

}  // namespace

void add(Context, const Tensor& a, const Tensor& b, Tensor& y) {
  binary(a, b, y, [](auto p, auto q) { return p + q; });
}

void subtract(Context, const Tensor& a, const Tensor& b, Tensor& y) {
  binary(a, b, y, [](auto p, auto q) { return p - q; });
}

void multiply(Context, const Tensor& a, const Tensor& b, Tensor& y) {
  binary(a, b, y, [](auto p, auto q) { return p * q; });
}

void divide(Context, const Tensor& a, const Tensor& b, Tensor& y) {
  binary(a, b, y, [](auto p, auto q) { return p / q; });
}

void divide_backward(Context, const Tensor& dy, const Tensor& y, const Tensor& b, Tensor& db) {
  with_float(y.dtype(), [&]<class T>(T) {
    const T *pdy = dy.data<T>(), *py = y.data<T>(), *pb = b.data<T>();
    T* pdb = db.data<T>();
    parallel_elements(y.numel(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) pdb[i] = -pdy[i] * py[i] / pb[i];
    });
  });
}

void sum_leading(Context, const Tensor& x, Tensor& y) {
  with_float(x.dtype(), [&]<class T>(T) {
    const std::int64_t width = y.numel(), rows = width ? x.numel() / width : 0;
    const T* values = x.data<T>();
    sum_over_rows(rows, width, y.data<T>(), [=](std::int64_t begin, std::int64_t end, T* partial) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T* row = values + r * width;
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c) partial[c] += row[c];
      }
    });
  });
}

void multiply_sum_leading(Context, const Tensor& a, const Tensor& b, Tensor& y) {
  with_float(a.dtype(), [&]<class T>(T) {
    const std::int64_t width = y.numel(), rows = width ? a.numel() / width : 0;
    const T *pa = a.data<T>(), *pb = b.data<T>();
    sum_over_rows(rows, width, y.data<T>(), [=](std::int64_t begin, std::int64_t end, T* partial) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T *row_a = pa + r * width, *row_b = pb + r * width;
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c) partial[c] += row_a[c] * row_b[c];
      }
    });
  });
}

void scale(Context, double factor, const Tensor& x, Tensor& y) {
  with_float(x.dtype(), [&]<class T>(T) {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    parallel_elements(x.numel(), [=, f = static_cast<T>(factor)](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) py[i] = px[i] * f;
    });
  });
}

}  // namespace filigree::cpu
