// Kernels that only move elements.
#include <algorithm>
#include <array>

#include "core/cpu/partition.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {

void copy_columns(Context, const Tensor& x, std::int64_t from, std::int64_t n, std::int64_t to, Tensor& y) {
  with_float(x.dtype(), [&]<class T>(T) {
    const std::int64_t x_width = x.dim(-1), y_width = y.dim(-1), rows = x.shape().drop_last().numel();
    const T* source = x.data<T>() + from;
    T* target = y.data<T>() + to;
    parallel_rows(rows, n, [=](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) std::copy_n(source + r * x_width, n, target + r * y_width);
    });
  });
}

namespace {

using Dims = std::array<std::int64_t, Shape::kMaxRank>;

// An index over the leading dimensions of the output that knows where it reads.
struct Odometer {
  int rank;
  Dims dims, strides, digits{};
  std::int64_t offset = 0;

  void seek(std::int64_t index) {
    offset = 0;
    for (int i = rank - 1; i >= 0; --i) {
      digits[i] = index % dims[i];
      index /= dims[i];
      offset += digits[i] * strides[i];
    }
  }
  void next() {
    for (int i = rank - 1; i >= 0; --i) {
      offset += strides[i];
      if (++digits[i] < dims[i]) return;
      offset -= dims[i] * strides[i];
      digits[i] = 0;
    }
  }
};

}  // namespace

void permute(Context, const Tensor& x, std::span<const int> order, Tensor& y) {
  with_float(x.dtype(), [&]<class T>(T) {
    const int rank = x.rank();
    Dims x_strides{};
    for (std::int64_t i = rank - 1, stride = 1; i >= 0; --i) {
      x_strides[i] = stride;
      stride *= x.dim(static_cast<int>(i));
    }
    Odometer start{rank - 1, {}, {}};
    for (int i = 0; i < rank - 1; ++i) {
      start.dims[i] = y.dim(i);
      start.strides[i] = x_strides[order[i]];
    }
    const std::int64_t n = y.dim(-1), stride = x_strides[order[rank - 1]];
    const T* source = x.data<T>();
    T* target = y.data<T>();
    parallel_rows(n ? y.numel() / n : 0, n, [=](std::int64_t first, std::int64_t last) {
      Odometer at = start;
      at.seek(first);
      for (std::int64_t r = first; r < last; ++r, at.next()) {
        const T* from = source + at.offset;
        T* to = target + r * n;
        if (stride == 1) {
          std::copy_n(from, n, to);
        } else {
          for (std::int64_t i = 0; i < n; ++i) to[i] = from[i * stride];
        }
      }
    });
  });
}

}  // namespace filigree::cpu
