// Cross-entropy: -log softmax(logits)[target] per row.
#include <cmath>

#include "core/cpu/partition.h"
#include "core/cpu/reduce.h"
#include "core/cpu/vector_math.h"
#include "core/ignore_index.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {
namespace {

constexpr std::int64_t kStrip = 1024;  // elements that stay in the L1 cache between two passes

// Subtracted from a row before exp: 0 where all is -inf, so that the loss becomes inf, not NaN.
template <class T>
T row_shift(const T* x, std::int64_t n) {
  const T greatest = lane_max(x, n);
  return greatest == -std::numeric_limits<T>::infinity() ? T(0) : greatest;
}

// p[i] = e^(x[i] - shift), strip by strip; p may be x, or one strip that is used again (advance = false).
// Returns their sum. Summed in f64 across strips: vocabularies are long.
template <class T>
double exp_row(const T* x, std::int64_t n, T shift, T* p, bool advance) {
  double sum = 0;
  for (std::int64_t begin = 0; begin < n; begin += kStrip) {
    const std::int64_t count = std::min(kStrip, n - begin);
    const T* from = x + begin;
    T* to = advance ? p + begin : p;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) to[i] = math::exp(from[i] - shift);
    sum += lane_sum<T>(count, [to](std::int64_t i) { return to[i]; });
  }
  return sum;
}

// -log(e^(logit - shift) / sum), without adding a large shift to a small logarithm.
template <class T>
T row_loss(T shift, double sum, T target_logit) {
  return static_cast<T>(std::log(sum) + (shift - target_logit));
}

}  // namespace

void count_targets(Context, const Tensor& targets, std::int64_t n_classes, Tensor& divisor) {
  const std::int32_t* t = targets.data<std::int32_t>();
  std::int64_t count = 0;
  for (std::int64_t i = 0, n = targets.numel(); i < n; ++i) {
    if (t[i] == ops::kIgnoreIndex) continue;
    if (t[i] < 0 || t[i] >= n_classes)
      fail(ErrorKind::data,
           "[cross_entropy] target {} at position {}; the {} classes are 0 to {}, and {} ignores", t[i], i,
           n_classes, n_classes - 1, ops::kIgnoreIndex);
    ++count;
  }
  divisor.data<double>()[0] = static_cast<double>(count);
}

void cross_entropy_forward(Context, const Tensor& logits, const Tensor& targets, Tensor& row_losses,
                           Tensor& softmax_rows) {
  with_float(logits.dtype(), [&]<class T>(T) {
    const std::int64_t n = logits.dim(1);
    const T* x = logits.data<T>();
    const std::int32_t* t = targets.data<std::int32_t>();
    T* losses = row_losses.data<T>();
    T* kept = softmax_rows.defined() ? softmax_rows.data<T>() : nullptr;
    parallel_rows(logits.dim(0), n, [=](std::int64_t first, std::int64_t last) {
      alignas(64) T strip[kStrip];
      for (std::int64_t r = first; r < last; ++r) {
        losses[r] = 0;
        if (t[r] == ops::kIgnoreIndex) continue;
        const T* row = x + r * n;
        const T shift = row_shift(row, n);
        const double sum = exp_row(row, n, shift, strip, false);
        losses[r] = row_loss(shift, sum, row[t[r]]);
        if (kept) {
          kept[2 * r] = shift;
          kept[2 * r + 1] = static_cast<T>(sum);
        }
      }
    });
  });
}

void cross_entropy_backward(Context, const Tensor& dloss, const Tensor& logits, const Tensor& targets,
                            const Tensor& softmax_rows, const Tensor& divisor, Tensor& dlogits) {
  with_float(logits.dtype(), [&]<class T>(T) {
    const std::int64_t n = logits.dim(1);
    const T *x = logits.data<T>(), *kept = softmax_rows.data<T>();
    const std::int32_t* t = targets.data<std::int32_t>();
    T* dx = dlogits.data<T>();
    const double count = divisor.item();
    const T factor = count == 0 ? T(0) : static_cast<T>(dloss.item() / count);
    parallel_rows(logits.dim(0), n, [=](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        const T* row = x + r * n;
        T* out = dx + r * n;
        if (t[r] == ops::kIgnoreIndex) {
          std::fill_n(out, n, T(0));
          continue;
        }
        const T shift = kept[2 * r], scale = factor / kept[2 * r + 1];
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) out[i] = math::exp(row[i] - shift) * scale;
        out[t[r]] -= factor;
      }
    });
  });
}

void cross_entropy_in_place(Context, const Tensor& targets, const Tensor& divisor, Tensor& logits,
                            Tensor& row_losses) {
  with_float(logits.dtype(), [&]<class T>(T) {
    const std::int64_t n = logits.dim(1);
    T *x = logits.data<T>(), *losses = row_losses.data<T>();
    const std::int32_t* t = targets.data<std::int32_t>();
    const double count = divisor.item();
    const T factor = count == 0 ? T(0) : static_cast<T>(1 / count);
    parallel_rows(logits.dim(0), n, [=](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        T* row = x + r * n;
        losses[r] = 0;
        if (t[r] == ops::kIgnoreIndex) {
          std::fill_n(row, n, T(0));
          continue;
        }
        const T shift = row_shift(row, n), target_logit = row[t[r]];
        const double sum = exp_row(row, n, shift, row, true);
        losses[r] = row_loss(shift, sum, target_logit);
        const T scale = static_cast<T>(factor / sum);
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) row[i] *= scale;
        row[t[r]] -= factor;
      }
    });
  });
}

void divide_sum(Context, const Tensor& x, const Tensor& divisor, Tensor& y) {
  with_float(x.dtype(), [&]<class T>(T) {
    double sum = 0;
    for (const T v : x.values<T>()) sum += v;
    const double count = divisor.item();
    y.data<T>()[0] = count == 0 ? T(0) : static_cast<T>(sum / count);
  });
}

void scale_by(Context context, const Tensor& factor, Tensor& x) {
  const double f = factor.item();
  if (f != 1) map(context, elementwise::Scale{f}, x, x);
}

}  // namespace filigree::cpu
