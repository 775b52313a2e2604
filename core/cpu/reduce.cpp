// Sums over everything, over leading and last dimensions and over ranges of rows; and the broadcasts that
// undo them.
#include "core/cpu/reduce.h"

#include <bit>
#include <type_traits>

#include "core/cpu/partition.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {

void sum_of_squares(Context, std::span<const Tensor> tensors, Tensor& result) {
  const auto parts = parts_of(tensors, [](const Tensor& x) { return x.numel(); });
  std::vector<double> sums(parts.size());
  parallel_tasks(std::ssize(parts), [&](std::int64_t part) {
    const auto& [tensor, begin, end] = parts[part];
    with_float(tensors[tensor].dtype(), [&, begin = begin, end = end, &x = tensors[tensor]]<class T>(T) {
      sums[part] = lane_sum<double>(end - begin, [from = x.template data<T>() + begin](std::int64_t i) {
        const double v = from[i];
        return v * v;
      });
    });
  });
  double total = 0;
  for (std::size_t i = 0; i < parts.size();) {
    double sum = 0;  // of one tensor
    for (const std::size_t tensor = parts[i].tensor; i < parts.size() && parts[i].tensor == tensor; ++i)
      sum += sums[i];
    total += sum;
  }
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

void sum(Context, const Tensor& x, Tensor& y) {
  with_float(x.dtype(), [&]<class T>(T) {
    const T* values = x.data<T>();
    const auto sums = partial_results<double>(x.numel(), [=](std::int64_t begin, std::int64_t end) {
      return lane_sum<double>(end - begin, [=](std::int64_t i) -> double { return values[begin + i]; });
    });
    double total = 0;
    for (const double s : sums) total += s;
    y.data<T>()[0] = static_cast<T>(total);
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

void sum_last(Context, const Tensor& x, Tensor& y) {
  with_float(x.dtype(), [&]<class T>(T) {
    const std::int64_t n = x.dim(1);
    const T* values = x.data<T>();
    T* sums = y.data<T>();
    parallel_rows(x.dim(0), n, [=](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r)
        sums[r] = lane_sum<T>(n, [row = values + r * n](std::int64_t i) { return row[i]; });
    });
  });
}

void broadcast_last(Context, const Tensor& x, Tensor& y) {
  with_float(x.dtype(), [&]<class T>(T) {
    const std::int64_t n = y.dim(1);
    const T* values = x.data<T>();
    T* out = y.data<T>();
    parallel_elements(y.numel(), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end;) {  // row by row; a long row is shared by tasks
        const std::int64_t r = i / n, count = std::min(end, (r + 1) * n) - i;
        std::fill_n(out + i, count, values[r]);
        i += count;
      }
    });
  });
}

namespace {

struct Range {
  std::int64_t low, high;
};

Range row_range(const Tensor& row_bounds, std::int64_t b, std::int64_t n) {
  const std::int32_t* p = row_bounds.data<std::int32_t>() + 2 * b;
  require(0 <= p[0] && p[0] <= p[1] && p[1] <= n, "[mean_rows] bounds [{}, {}) of {} rows", p[0], p[1], n);
  return {p[0], p[1]};
}

constexpr std::int64_t kColumns = 256;  // per task

}  // namespace

void mean_rows_forward(Context, const Tensor& x, const Tensor& row_bounds, Tensor& y) {
  with_float(x.dtype(), [&]<class T>(T) {
    const std::int64_t n = x.dim(1), width = x.dim(2), strips = (width + kColumns - 1) / kColumns;
    parallel_tasks(x.dim(0) * strips, [&](std::int64_t task) {
      const std::int64_t b = task / strips, column = task % strips * kColumns;
      const std::int64_t columns = std::min(kColumns, width - column);
      const Range range = row_range(row_bounds, b, n);
      T* out = y.data<T>() + b * width + column;
      std::fill_n(out, columns, T(0));
      for (std::int64_t r = range.low; r < range.high; ++r) {
        const T* row = x.data<T>() + (b * n + r) * width + column;
#pragma omp simd
        for (std::int64_t c = 0; c < columns; ++c) out[c] += row[c];
      }
      const T factor = T(1) / static_cast<T>(std::max<std::int64_t>(1, range.high - range.low));
      for (std::int64_t c = 0; c < columns; ++c) out[c] *= factor;
    });
  });
}

void mean_rows_backward(Context, const Tensor& dy, const Tensor& row_bounds, Tensor& dx) {
  with_float(dy.dtype(), [&]<class T>(T) {
    const std::int64_t n = dx.dim(1), width = dx.dim(2);
    parallel_rows(dx.dim(0) * n, width, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        const std::int64_t b = r / n, row = r % n;
        const Range range = row_range(row_bounds, b, n);
        const bool inside = range.low <= row && row < range.high;
        const T factor = inside ? T(1) / static_cast<T>(range.high - range.low) : T(0);
        const T* from = dy.data<T>() + b * width;
        T* to = dx.data<T>() + r * width;
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c) to[c] = factor * from[c];
      }
    });
  });
}

}  // namespace filigree::cpu
