// Binary arithmetic with suffix broadcast, and the sums that are its gradient.
#include "core/cuda/column_sum.cuh"
#include "core/cuda/elementwise.cuh"

namespace filigree::cuda {
namespace {

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Subtract {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a - b;
  }
};
struct Multiply {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a * b;
  }
};
struct Divide {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a / b;
  }
};
struct DivideGradient {
  template <class T>
  __device__ T operator()(T dy, T y, T b) const {
    return -dy * y / b;
  }
};
struct Scale {
  double factor;
  template <class T>
  __device__ T operator()(T x) const {
    return x * static_cast<T>(factor);
  }
};

// y = f(a, b) where each row of a [rows, width] meets the same b [width].
template <class T, class F>
struct Broadcast {
  const T *a, *b;
  T* y;
  std::int64_t width;
  bool wide;
  F f;

  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * width + column, count = width - column;
    const Pack<T> pa = load_pack(a + at, count, wide), pb = load_pack(b + column, count, wide);
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kPackSize<T>; ++i) out.set(i, f(pa[i], pb[i]));
    store_pack(y + at, out, count, wide);
  }
};

template <class F>
void binary(Context context, const Tensor& a, const Tensor& b, Tensor& y, F f) {
  const std::int64_t n = a.numel(), width = b.numel();
  if (n == width) return map_tensors(context, y, f, a, b);
  if (n == 0) return;
  with_stored(a.dtype(), [&]<class T>(T) {
    const T *pa = data<T>(a), *pb = data<T>(b);
    T* py = data<T>(y);
    for_row_packs<kPackSize<T>>(context, n / width, width,
                                Broadcast<T, F>{pa, pb, py, width, wide_rows(width, pa, pb, py), f});
  });
}

template <class T>
struct ProductRows {
  static constexpr int kSize = kPackSize<T>, kUnroll = 2;
  using Acc = compute_t<T>;
  struct Loaded {
    Pack<T> a, b;
  };

  MatrixRows<T> a, b;

  __device__ Loaded load(std::int64_t batch, std::int64_t row, std::int64_t column) const {
    return {a.load(batch, row, column), b.load(batch, row, column)};
  }
  __device__ void add(const Loaded& x, Acc (&sum)[kSize]) const {
#pragma unroll
    for (int i = 0; i < kSize; ++i) sum[i] += x.a[i] * x.b[i];
  }
};

}  // namespace

void add(Context context, const Tensor& a, const Tensor& b, Tensor& y) {
  binary(context, a, b, y, Add{});
}

void subtract(Context context, const Tensor& a, const Tensor& b, Tensor& y) {
  binary(context, a, b, y, Subtract{});
}

void multiply(Context context, const Tensor& a, const Tensor& b, Tensor& y) {
  binary(context, a, b, y, Multiply{});
}

void divide(Context context, const Tensor& a, const Tensor& b, Tensor& y) {
  binary(context, a, b, y, Divide{});
}

void divide_backward(Context context, const Tensor& dy, const Tensor& y, const Tensor& b, Tensor& db) {
  map_tensors(context, db, DivideGradient{}, dy, y, b);
}

void scale(Context context, double factor, const Tensor& x, Tensor& y) {
  map_tensors(context, y, Scale{factor}, x);
}

void sum_leading(Context context, const Tensor& x, Tensor& y) {
  const std::int64_t width = y.numel(), rows = width ? x.numel() / width : 0;
  with_stored(x.dtype(), [&]<class T>(T) {
    const MatrixRows<T> terms{data<T>(x), rows, width, wide_rows(width, data<T>(x))};
    if (y.dtype() == x.dtype())
      sum_columns(context, 1, rows, width, terms, StoreSum<T>{data<T>(y), width});
    else
      sum_columns(context, 1, rows, width, terms, StoreSum<compute_t<T>>{data<compute_t<T>>(y), width});
  });
}

void multiply_sum_leading(Context context, const Tensor& a, const Tensor& b, Tensor& y) {
  const std::int64_t width = y.numel(), rows = width ? a.numel() / width : 0;
  with_stored(a.dtype(), [&]<class T>(T) {
    const bool wide = wide_rows(width, data<T>(a), data<T>(b));
    const ProductRows<T> terms{{data<T>(a), rows, width, wide}, {data<T>(b), rows, width, wide}};
    sum_columns(context, 1, rows, width, terms, StoreSum<T>{data<T>(y), width});
  });
}

}  // namespace filigree::cuda
