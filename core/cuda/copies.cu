// Kernels that only move elements.
#include <algorithm>

#include "core/cuda/elementwise.cuh"

namespace filigree::cuda {
namespace {

template <class T>
struct CopyColumns {
  const T* x;
  std::int64_t x_width;
  T* y;
  std::int64_t y_width;
  std::int64_t n;
  bool wide;

  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const Pack<T> pack = load_pack(x + row * x_width + column, n - column, wide);
    store_pack(y + row * y_width + column, pack, n - column, wide);
  }
};

// A row of y lies along its last dimension. The leading dimensions tell where in x it begins.
template <class T>
struct Permute {
  static constexpr int kMaxLeading = Shape::kMaxRank - 1;
  const T* x;
  T* y;
  std::int64_t n, stride;  // of a row, in x
  int leading;
  std::int64_t y_dims[kMaxLeading], x_strides[kMaxLeading];  // in y's order of dimensions
  bool wide;

  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    std::int64_t rest = row, from = 0;
#pragma unroll
    for (int i = kMaxLeading - 1; i >= 0; --i) {
      if (i >= leading) continue;
      const Quotient at = divide_index(rest, y_dims[i]);
      from += at.remainder * x_strides[i];
      rest = at.quotient;
    }
    Pack<T> pack;
    if (stride == 1) {
      pack = load_pack(x + from + column, n - column, wide);
    } else {
#pragma unroll
      for (int i = 0; i < kPackSize<T>; ++i)
        if (column + i < n) pack.set_element(i, x[from + (column + i) * stride]);
    }
    store_pack(y + row * n + column, pack, n - column, wide);
  }
};

}  // namespace

void copy_columns(Context context, const Tensor& x, std::int64_t from, std::int64_t n, std::int64_t to,
                  Tensor& y) {
  const std::int64_t x_width = x.dim(-1), y_width = y.dim(-1), rows = x.shape().drop_last().numel();
  with_stored(x.dtype(), [&]<class T>(T) {
    const T* source = data<T>(x) + from;
    T* target = data<T>(y) + to;
    const bool wide = wide_rows(x_width, source) && wide_rows(y_width, target);
    for_row_packs<kPackSize<T>>(context, rows, n, CopyColumns<T>{source, x_width, target, y_width, n, wide});
  });
}

void permute(Context context, const Tensor& x, std::span<const int> order, Tensor& y) {
  const int rank = x.rank();
  if (y.numel() == 0) return;
  std::int64_t strides[Shape::kMaxRank] = {}, stride = 1;
  for (int i = rank - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= x.dim(i);
  }
  with_stored(x.dtype(), [&]<class T>(T) {
    const T* px = data<T>(x);
    T* py = data<T>(y);
    const std::int64_t n = y.dim(-1);
    Permute<T> f{px, py, n, strides[order.back()], rank - 1, {}, {}, wide_rows(n, px, py)};
    for (int i = 0; i < rank - 1; ++i) {
      f.y_dims[i] = y.dim(i);
      f.x_strides[i] = strides[order[i]];
    }
    for_row_packs<kPackSize<T>>(context, y.numel() / n, n, f);
  });
}

}  // namespace filigree::cuda
