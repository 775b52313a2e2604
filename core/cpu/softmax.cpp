// Softmax over the last dimension. A row of -inf gives zeros, as a query that may see no key does.
#include "core/cpu/partition.h"
#include "core/cpu/reduce.h"
#include "core/cpu/vector_math.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {

void softmax_forward(Context, const Tensor& x, Tensor& y) {
  with_float(x.dtype(), [&]<class T>(T) {
    const std::int64_t n = x.dim(-1), rows = n ? x.numel() / n : 0;
    const T* px = x.data<T>();
    T* py = y.data<T>();
    parallel_rows(rows, n, [=](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        const T* row = px + r * n;
        T* out = py + r * n;
        const T greatest = lane_max(row, n);
        const T shift = greatest == -std::numeric_limits<T>::infinity() ? T(0) : greatest;
#pragma omp simd
        for (std::int64_t c = 0; c < n; ++c) out[c] = math::exp(row[c] - shift);
        const T sum = lane_sum<T>(n, [out](std::int64_t c) { return out[c]; });
        const T factor = sum == T(0) ? T(0) : T(1) / sum;
#pragma omp simd
        for (std::int64_t c = 0; c < n; ++c) out[c] *= factor;
      }
    });
  });
}

void softmax_backward(Context, const Tensor& dy, const Tensor& y, Tensor& dx) {
  with_float(y.dtype(), [&]<class T>(T) {
    const std::int64_t n = y.dim(-1), rows = n ? y.numel() / n : 0;
    const T *pdy = dy.data<T>(), *py = y.data<T>();
    T* pdx = dx.data<T>();
    parallel_rows(rows, n, [=](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        const T *d = pdy + r * n, *p = py + r * n;
        T* out = pdx + r * n;
        const T dot = lane_sum<T>(n, [d, p](std::int64_t c) { return d[c] * p[c]; });
#pragma omp simd
        for (std::int64_t c = 0; c < n; ++c) out[c] = p[c] * (d[c] - dot);
      }
    });
  });
}

}  // namespace filigree::cpu
