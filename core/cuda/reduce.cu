// Sums over everything, over leading and last dimensions and over ranges of rows; and the broadcasts that
// undo them.
#include <limits>

#include "core/cuda/chunk_table.cuh"
#include "core/cuda/column_sum.cuh"
#include "core/cuda/elementwise.cuh"
#include "core/cuda/scalar_sum.cuh"

namespace filigree::cuda {
namespace {

struct Square {
  template <class T>
  __device__ double operator()(T x) const {
    const auto wide = static_cast<double>(x);
    return wide * wide;
  }
};

struct IsNotFinite {
  template <class T>
  __device__ double operator()(T x) const {
    return isfinite(x) ? 0 : 1;
  }
};

struct Store {
  double* y;
  __device__ void operator()(double sum) const { *y = sum; }
};

template <class T>
struct Entry {
  const T* x;
  std::int64_t n;
};
template <class T>
using Table = ChunkTable<Entry<T>, 1000>;

// partial[chunk] = its sum of squares
template <class T>
__global__ void __launch_bounds__(kChunkThreads)
    sum_of_squares_kernel(const __grid_constant__ Table<T> table, double* partial) {
  constexpr int kSize = kPackSize<T>;
  const int i = table.find(static_cast<int>(blockIdx.x));
  const Entry<T>& t = table.entries[i];
  const std::int64_t begin = (static_cast<int>(blockIdx.x) - table.first_chunk[i]) * kChunk;
  const std::int64_t end = std::min(t.n, begin + kChunk);
  const bool wide = reinterpret_cast<std::uintptr_t>(t.x) % 16 == 0;
  const double sum =
      team_sum(sum_of_terms(t.x, begin + threadIdx.x * kSize, end, kChunkThreads * kSize, wide, Square{}));
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
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

template <class T>
struct StoreNarrow {
  T* y;
  __device__ void operator()(double sum) const { *y = narrow<T>(static_cast<compute_t<T>>(sum)); }
};

template <class T>
__global__ void __launch_bounds__(1024)
    sum_last_kernel(std::int64_t rows, std::int64_t n, bool wide, const T* x, T* y) {
  constexpr int kSize = kPackSize<T>;
  const std::int64_t row = grid_row();
  if (row >= rows) return;
  x += row * n;
  compute_t<T> sum = 0;
  for (std::int64_t c = std::int64_t{threadIdx.x} * kSize; c < n; c += std::int64_t{blockDim.x} * kSize) {
    const Pack<T> pack = load_pack(x + c, n - c, wide);
#pragma unroll
    for (int i = 0; i < kSize; ++i) sum += pack[i];
  }
  sum = team_sum(sum);
  if (threadIdx.x == 0) y[row] = narrow<T>(sum);
}

template <class T>
struct BroadcastLast {
  const T* x;  // [rows]
  T* y;        // [rows, n]
  std::int64_t n;
  bool wide;

  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const compute_t<T> value = widen(x[row]);
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kPackSize<T>; ++i) out.set(i, value);
    store_pack(y + row * n + column, out, n - column, wide);
  }
};

// Rows [low, high) of a batch element's n, as `bounds` i32 [B, 2] says.
struct RowRange {
  std::int64_t low, high;
  __device__ bool valid(std::int64_t n) const { return 0 <= low && low <= high && high <= n; }
  __device__ bool contains(std::int64_t row) const { return low <= row && row < high; }
};
__device__ inline RowRange row_range(const std::int32_t* bounds, std::int64_t batch) {
  return {bounds[2 * batch], bounds[2 * batch + 1]};
}

// Bounds that do not fit give NaN: the CPU's error, of which a kernel cannot tell anybody.
template <class Acc>
__device__ Acc mean_factor(const RowRange& range, std::int64_t n) {
  if (!range.valid(n)) return std::numeric_limits<Acc>::quiet_NaN();
  return Acc(1) / static_cast<Acc>(range.high > range.low ? range.high - range.low : 1);
}

template <class T>
struct RowsInRange : MatrixRows<T> {
  const std::int32_t* bounds;
  __device__ Pack<T> load(std::int64_t batch, std::int64_t row, std::int64_t column) const {
    if (!row_range(bounds, batch).contains(row)) return Pack<T>{};
    return MatrixRows<T>::load(batch, row, column);
  }
};

template <class T>
struct StoreMean {
  T* y;  // [B, width]
  std::int64_t n, width;
  const std::int32_t* bounds;
  __device__ void operator()(std::int64_t batch, std::int64_t column, compute_t<T> sum) const {
    const auto factor = mean_factor<compute_t<T>>(row_range(bounds, batch), n);
    y[batch * width + column] = narrow<T>(sum * factor);
  }
};

template <class T>
struct SpreadMean {
  const T* dy;  // [B, width]
  const std::int32_t* bounds;
  T* dx;  // [B, n, width]
  std::int64_t n, width;
  bool wide;

  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const Quotient at = divide_index(row, n);
    const RowRange range = row_range(bounds, at.quotient);
    const bool inside = range.contains(at.remainder) || !range.valid(n);
    const auto factor = inside ? mean_factor<compute_t<T>>(range, n) : compute_t<T>(0);
    Pack<T> pack = load_pack(dy + at.quotient * width + column, width - column, wide);
#pragma unroll
    for (int i = 0; i < kPackSize<T>; ++i) pack.set(i, pack[i] * factor);
    store_pack(dx + row * width + column, pack, width - column, wide);
  }
};

}  // namespace

void sum_of_squares(Context context, std::span<const Tensor> tensors, Tensor& result) {
  std::int64_t chunks = 0, done = 0;
  for (const Tensor& x : tensors) chunks += divide_up(x.numel(), kChunk);
  Tensor partial = workspace<double>(context, chunks);
  const auto add_chunks_of = [&]<class T>(T, DType type) {
    for_chunk_tables<Table<T>>(
        tensors, [=](const Tensor& x) { return x.dtype() == type; },
        [](const Tensor& x) {
          return Entry<T>{data<T>(x), x.numel()};
        },
        [&](const Table<T>& table) {
          sum_of_squares_kernel<T>
              <<<static_cast<unsigned>(table.chunks), kChunkThreads, 0, stream(context)>>>(
                  table, data<double>(partial) + done);
          check_launch();
          done += table.chunks;
        });
  };
  add_chunks_of(float{}, DType::f32);
  add_chunks_of(double{}, DType::f64);
  add_chunks_of(bfloat16{}, DType::bf16);
  finish_sum(context, chunks, data<double>(partial), Store{data<double>(result)});
}

void all_finite(Context context, const Tensor& x, bool& result) {
  Tensor bad = Tensor::empty({1}, DType::f64, Device::cuda(context.device));
  with_stored(x.dtype(), [&]<class T>(T) {
    scalar_sum(context, x.numel(), data<T>(x), IsNotFinite{}, Store{data<double>(bad)});
  });
  result = bad.item() == 0;
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

void sum(Context context, const Tensor& x, Tensor& y) {
  with_stored(x.dtype(), [&]<class T>(T) {
    scalar_sum(context, x.numel(), data<T>(x), Identity{}, StoreNarrow<T>{data<T>(y)});
  });
}

void sum_last(Context context, const Tensor& x, Tensor& y) {
  const std::int64_t rows = x.dim(0), n = x.dim(1);
  if (rows == 0) return;
  with_stored(x.dtype(), [&]<class T>(T) {
    const T* px = data<T>(x);
    const RowGrid grid = row_grid(rows, n, kPackSize<T>);
    sum_last_kernel<<<grid.blocks, grid.threads, 0, stream(context)>>>(rows, n, wide_rows(n, px), px,
                                                                       data<T>(y));
    check_launch();
  });
}

void broadcast_last(Context context, const Tensor& x, Tensor& y) {
  const std::int64_t rows = y.dim(0), n = y.dim(1);
  with_stored(x.dtype(), [&]<class T>(T) {
    T* py = data<T>(y);
    for_row_packs<kPackSize<T>>(context, rows, n, BroadcastLast<T>{data<T>(x), py, n, wide_rows(n, py)});
  });
}

void mean_rows_forward(Context context, const Tensor& x, const Tensor& row_bounds, Tensor& y) {
  const std::int64_t batch = x.dim(0), n = x.dim(1), width = x.dim(2);
  const std::int32_t* bounds = data<std::int32_t>(row_bounds);
  with_stored(x.dtype(), [&]<class T>(T) {
    const T* px = data<T>(x);
    const RowsInRange<T> terms{{px, n, width, wide_rows(width, px)}, bounds};
    sum_columns(context, batch, n, width, terms, StoreMean<T>{data<T>(y), n, width, bounds});
  });
}

void mean_rows_backward(Context context, const Tensor& dy, const Tensor& row_bounds, Tensor& dx) {
  const std::int64_t batch = dx.dim(0), n = dx.dim(1), width = dx.dim(2);
  const std::int32_t* bounds = data<std::int32_t>(row_bounds);
  with_stored(dy.dtype(), [&]<class T>(T) {
    const T* pdy = data<T>(dy);
    T* pdx = data<T>(dx);
    for_row_packs<kPackSize<T>>(context, batch * n, width,
                                SpreadMean<T>{pdy, bounds, pdx, n, width, wide_rows(width, pdy, pdx)});
  });
}

}  // namespace filigree::cuda
