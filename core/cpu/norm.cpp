// Layer norm (Ba et al. 2016) and RMS norm (Zhang & Sennrich 2019), which is the same without the mean.
#include <cmath>

#include "core/cpu/partition.h"
#include "core/cpu/reduce.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {
namespace {

// The data of an optional tensor.
template <class T>
const T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}
template <class T>
T* data_or_null(Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

template <class T>
struct NormRow {
  const T *dy, *x, *weight;
  T mean, rstd;
  std::int64_t n;

  // dx = rstd (g - mean(g) - xhat mean(g xhat)) with g = dy weight, xhat = (x - mean) rstd; RMS norm has no
  // mean(g).
  // `residual`, if not null, is added.
  void input_gradient(bool centred, const T* residual, T* dx) const {
    const T sum_g = centred ? lane_sum<T>(n, [this](std::int64_t c) { return dy[c] * weight[c]; }) : T(0);
    const T sum_g_x = lane_sum<T>(n, [this](std::int64_t c) { return dy[c] * weight[c] * (x[c] - mean); });
    const T mean_g = sum_g / static_cast<T>(n);
    const T slope = sum_g_x / static_cast<T>(n) * rstd * rstd;
#pragma omp simd
    for (std::int64_t c = 0; c < n; ++c) dx[c] = rstd * (dy[c] * weight[c] - mean_g - (x[c] - mean) * slope);
    if (!residual) return;
      // In a loop of its own, so that the sum has the bits of a separate addition (checkpointing makes it
      // so).
#pragma omp simd
    for (std::int64_t c = 0; c < n; ++c) dx[c] += residual[c];
  }

  void add_parameter_gradients(T* dweight, T* dbias) const {
#pragma omp simd
    for (std::int64_t c = 0; c < n; ++c) dweight[c] += dy[c] * ((x[c] - mean) * rstd);
    if (!dbias) return;
#pragma omp simd
    for (std::int64_t c = 0; c < n; ++c) dbias[c] += dy[c];
  }
};

}  // namespace

void norm_forward(Context, const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, Tensor& y,
                  Tensor& mean, Tensor& rstd) {
  with_float(x.dtype(), [&]<class T>(T) {
    const std::int64_t n = x.dim(-1), rows = rstd.numel();
    const T *px = x.data<T>(), *w = weight.data<T>(), *b = data_or_null<T>(bias);
    T *py = y.data<T>(), *means = data_or_null<T>(mean), *rstds = rstd.data<T>();
    parallel_rows(rows, n, [=](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        const T* row = px + r * n;
        T* out = py + r * n;
        T m = 0;
        if (means) {
          m = lane_sum<T>(n, [row](std::int64_t c) { return row[c]; }) / static_cast<T>(n);
          means[r] = m;
        }
        const T squares = lane_sum<T>(n, [row, m](std::int64_t c) { return (row[c] - m) * (row[c] - m); });
        const T s = T(1) / std::sqrt(squares / static_cast<T>(n) + static_cast<T>(eps));
        rstds[r] = s;
        if (b) {
#pragma omp simd
          for (std::int64_t c = 0; c < n; ++c) out[c] = (row[c] - m) * s * w[c] + b[c];
        } else {
#pragma omp simd
          for (std::int64_t c = 0; c < n; ++c) out[c] = (row[c] - m) * s * w[c];
        }
      }
    });
  });
}

void add_norm_forward(Context context, const Tensor& x, const Tensor& branch, const Tensor& weight,
                      const Tensor& bias, double eps, Tensor& sum, Tensor& y, Tensor& mean, Tensor& rstd) {
  map(context, elementwise::Add{}, x, branch, sum);
  norm_forward(context, sum, weight, bias, eps, y, mean, rstd);
}

void norm_backward(Context, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean,
                   const Tensor& rstd, const Tensor& dsum, Tensor& dx, Tensor& dweight, Tensor& dbias) {
  with_float(x.dtype(), [&]<class T>(T) {
    const std::int64_t n = x.dim(-1), rows = rstd.numel();
    const T *pdy = dy.data<T>(), *px = x.data<T>(), *w = weight.data<T>();
    const T *means = data_or_null<T>(mean), *rstds = rstd.data<T>();
    T* pdx = data_or_null<T>(dx);
    const T* residual = data_or_null<T>(dsum);
    const auto residual_row = [=](std::int64_t r) { return residual ? residual + r * n : nullptr; };
    const auto row = [=](std::int64_t r) {
      return NormRow<T>{pdy + r * n, px + r * n, w, means ? means[r] : T(0), rstds[r], n};
    };
    if (!dweight.defined() && !dbias.defined()) {
      parallel_rows(rows, n, [=](std::int64_t first, std::int64_t last) {
        for (std::int64_t r = first; r < last; ++r)
          row(r).input_gradient(means, residual_row(r), pdx + r * n);
      });
      return;
    }
    // One pass for all gradients; the parameters' partial sums are [dweight, dbias].
    std::vector<T> sums(2 * n);
    const bool with_bias = dbias.defined();
    sum_over_rows(rows, 2 * n, sums.data(), [=](std::int64_t first, std::int64_t last, T* partial) {
      for (std::int64_t r = first; r < last; ++r) {
        if (pdx) row(r).input_gradient(means, residual_row(r), pdx + r * n);
        row(r).add_parameter_gradients(partial, with_bias ? partial + n : nullptr);
      }
    });
    if (dweight.defined()) std::copy_n(sums.data(), n, dweight.data<T>());
    if (with_bias) std::copy_n(sums.data() + n, n, dbias.data<T>());
  });
}

}  // namespace filigree::cpu
