// Softmax over the last dimension. A row of -inf gives zeros, as a query that may see no key does.
#include "core/cuda/online_softmax.cuh"

namespace filigree::cuda {
namespace {

constexpr int kMaxThreads = 1024;

template <class T>
__global__ void __launch_bounds__(kMaxThreads)
    softmax_forward_kernel(std::int64_t rows, std::int64_t n, bool wide, const T* x, T* y) {
  using Acc = compute_t<T>;
  constexpr int kSize = kPackSize<T>;
  const std::int64_t row = grid_row();
  if (row >= rows) return;
  x += row * n;
  y += row * n;
  const OnlineSoftmax<Acc> state = softmax_of_row(x, n, wide);
  const Acc shift = state.shift(), factor = state.sum == Acc(0) ? Acc(0) : Acc(1) / state.sum;
  for (std::int64_t c = std::int64_t{threadIdx.x} * kSize; c < n; c += std::int64_t{blockDim.x} * kSize) {
    Pack<T> pack = load_pack(x + c, n - c, wide);
#pragma unroll
    for (int i = 0; i < kSize; ++i) pack.set(i, fast_exp(pack[i] - shift) * factor);
    store_pack(y + c, pack, n - c, wide);
  }
}

// dx = y (dy - <dy, y>)
template <class T>
__global__ void __launch_bounds__(kMaxThreads)
    softmax_backward_kernel(std::int64_t rows, std::int64_t n, bool wide, const T* dy, const T* y, T* dx) {
  using Acc = compute_t<T>;
  constexpr int kSize = kPackSize<T>;
  const std::int64_t row = grid_row();
  if (row >= rows) return;
  dy += row * n;
  y += row * n;
  dx += row * n;
  const std::int64_t first = std::int64_t{threadIdx.x} * kSize, step = std::int64_t{blockDim.x} * kSize;
  Acc dot = 0;
  for (std::int64_t c = first; c < n; c += step) {
    const Pack<T> d = load_pack(dy + c, n - c, wide), p = load_pack(y + c, n - c, wide);
#pragma unroll
    for (int i = 0; i < kSize; ++i) dot += d[i] * p[i];
  }
  dot = team_sum(dot);
  for (std::int64_t c = first; c < n; c += step) {
    const Pack<T> d = load_pack(dy + c, n - c, wide), p = load_pack(y + c, n - c, wide);
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kSize; ++i) out.set(i, p[i] * (d[i] - dot));
    store_pack(dx + c, out, n - c, wide);
  }
}

}  // namespace

void softmax_forward(Context context, const Tensor& x, Tensor& y) {
  const std::int64_t n = x.dim(-1), rows = n ? x.numel() / n : 0;
  if (rows == 0) return;
  with_stored(x.dtype(), [&]<class T>(T) {
    const T* px = data<T>(x);
    T* py = data<T>(y);
    const RowGrid grid = row_grid(rows, n, kPackSize<T>);
    softmax_forward_kernel<<<grid.blocks, grid.threads, 0, stream(context)>>>(rows, n, wide_rows(n, px, py),
                                                                              px, py);
    check_launch();
  });
}

void softmax_backward(Context context, const Tensor& dy, const Tensor& y, Tensor& dx) {
  const std::int64_t n = y.dim(-1), rows = n ? y.numel() / n : 0;
  if (rows == 0) return;
  with_stored(y.dtype(), [&]<class T>(T) {
    const T *pdy = data<T>(dy), *py = data<T>(y);
    T* pdx = data<T>(dx);
    const RowGrid grid = row_grid(rows, n, kPackSize<T>);
    softmax_backward_kernel<<<grid.blocks, grid.threads, 0, stream(context)>>>(
        rows, n, wide_rows(n, pdy, py, pdx), pdy, py, pdx);
    check_launch();
  });
}

}  // namespace filigree::cuda
