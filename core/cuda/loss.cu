// Cross-entropy: -log softmax(logits)[target] per row. A row is read twice, by one block: once for its
// softmax's shift and sum, and then, out of the L2 cache, where its gradient is written.
#include "core/cuda/online_softmax.cuh"
#include "core/cuda/scalar_sum.cuh"
#include "core/ignore_index.h"

namespace filigree::cuda {
namespace {

constexpr int kMaxThreads = 1024;
// Per multiprocessor: one block computes while the other waits for memory. f64 would spill registers.
template <class T>
constexpr int kMinBlocks = sizeof(T) < 8 ? 2 : 1;

struct Rows {
  std::int64_t rows, n;
  bool wide;
  const std::int32_t* targets;
};

// -log(e^(logit - shift) / sum), without adding a large shift to a small logarithm. NaN for a target that is
// no class.
template <class Acc, class T>
__device__ Acc row_loss(const OnlineSoftmax<Acc>& state, const T* row, std::int32_t target, std::int64_t n) {
  if (target < 0 || target >= n) return std::numeric_limits<Acc>::quiet_NaN();
  const Acc from_shift = state.shift() - widen(row[target]);
  return static_cast<Acc>(std::log(static_cast<double>(state.sum)) + static_cast<double>(from_shift));
}

template <class T>
__device__ void fill_zero(T* row, std::int64_t n, bool wide) {
  constexpr int kSize = kPackSize<T>;
  const Pack<T> zero{};
  for (std::int64_t c = std::int64_t{threadIdx.x} * kSize; c < n; c += std::int64_t{blockDim.x} * kSize)
    store_pack(row + c, zero, n - c, wide);
}

// out = scale e^(x - shift), less `factor` at the target; out may be x.
template <class T, class Acc = compute_t<T>>
__device__ void write_gradient(const T* x, T* out, std::int64_t n, bool wide, std::int32_t target, Acc shift,
                               Acc scale, Acc factor) {
  constexpr int kSize = kPackSize<T>;
  for (std::int64_t c = std::int64_t{threadIdx.x} * kSize; c < n; c += std::int64_t{blockDim.x} * kSize) {
    Pack<T> pack = load_pack(x + c, n - c, wide);
    const int of_target = static_cast<int>(target - c);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const Acc p = fast_exp(pack[i] - shift) * scale;
      pack.set(i, i == of_target ? p - factor : p);
    }
    store_pack(out + c, pack, n - c, wide);
  }
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks<T>)
    forward_kernel(Rows a, const T* logits, compute_t<T>* losses, compute_t<T>* softmax_rows) {
  const std::int64_t row = grid_row();
  if (row >= a.rows) return;
  const std::int32_t target = a.targets[row];
  if (target == ops::kIgnoreIndex) {
    if (threadIdx.x == 0) losses[row] = 0;
    return;
  }
  const T* x = logits + row * a.n;
  const auto state = softmax_of_row(x, a.n, a.wide);
  if (threadIdx.x > 0) return;
  losses[row] = row_loss(state, x, target, a.n);
  if (!softmax_rows) return;
  softmax_rows[2 * row] = state.shift();
  softmax_rows[2 * row + 1] = state.sum;
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks<T>)
    backward_kernel(Rows a, const T* logits, const compute_t<T>* softmax_rows, const compute_t<T>* dloss,
                    const double* divisor, T* dlogits) {
  using Acc = compute_t<T>;
  const std::int64_t row = grid_row();
  if (row >= a.rows) return;
  const std::int32_t target = a.targets[row];
  T* out = dlogits + row * a.n;
  if (target == ops::kIgnoreIndex) return fill_zero(out, a.n, a.wide);
  const double count = *divisor;
  const Acc factor = count == 0 ? Acc(0) : static_cast<Acc>(static_cast<double>(*dloss) / count);
  write_gradient(logits + row * a.n, out, a.n, a.wide, target, softmax_rows[2 * row],
                 factor / softmax_rows[2 * row + 1], factor);
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks<T>)
    in_place_kernel(Rows a, const double* divisor, T* logits, compute_t<T>* losses) {
  using Acc = compute_t<T>;
  const std::int64_t row = grid_row();
  if (row >= a.rows) return;
  const std::int32_t target = a.targets[row];
  T* x = logits + row * a.n;
  if (target == ops::kIgnoreIndex) {
    if (threadIdx.x == 0) losses[row] = 0;
    return fill_zero(x, a.n, a.wide);
  }
  const auto state = softmax_of_row(x, a.n, a.wide);
  if (threadIdx.x == 0) losses[row] = row_loss(state, x, target, a.n);
  team_sync();  // the target's logit has been read
  const double count = *divisor;
  const Acc factor = count == 0 ? Acc(0) : static_cast<Acc>(1 / count);
  write_gradient(x, x, a.n, a.wide, target, state.shift(), factor / state.sum, factor);
}

struct CountsAsTarget {
  __device__ double operator()(std::int32_t target) const { return target == ops::kIgnoreIndex ? 0 : 1; }
};

template <class T>
struct Store {
  T* y;
  __device__ void operator()(double sum) const { *y = static_cast<T>(sum); }
};

template <class T>
struct StoreQuotient {
  const double* divisor;
  T* y;
  __device__ void operator()(double sum) const { *y = *divisor == 0 ? T(0) : static_cast<T>(sum / *divisor); }
};

constexpr int kScaleThreads = 256;

template <class T>
__global__ void __launch_bounds__(kScaleThreads)
    scale_by_kernel(std::int64_t n, bool wide, const compute_t<T>* factor, T* x) {
  constexpr int kSize = kPackSize<T>;
  const compute_t<T> f = *factor;
  if (f == 1) return;
  const std::int64_t at = (std::int64_t{blockIdx.x} * kScaleThreads + threadIdx.x) * kSize;
  Pack<T> pack = load_pack(x + at, n - at, wide);
#pragma unroll
  for (int i = 0; i < kSize; ++i) pack.set(i, pack[i] * f);
  store_pack(x + at, pack, n - at, wide);
}

}  // namespace

void count_targets(Context context, const Tensor& targets, std::int64_t, Tensor& divisor) {
  scalar_sum(context, targets.numel(), data<std::int32_t>(targets), CountsAsTarget{},
             Store<double>{data<double>(divisor)});
}

void cross_entropy_forward(Context context, const Tensor& logits, const Tensor& targets, Tensor& row_losses,
                           Tensor& softmax_rows) {
  const std::int64_t rows = logits.dim(0), n = logits.dim(1);
  if (rows == 0) return;
  with_stored(logits.dtype(), [&]<class T>(T) {
    using Acc = compute_t<T>;
    const T* x = data<T>(logits);
    const Rows arguments{rows, n, wide_rows(n, x), data<std::int32_t>(targets)};
    const RowGrid grid = row_grid(rows, n, kPackSize<T>);
    forward_kernel<<<grid.blocks, grid.threads, 0, stream(context)>>>(arguments, x, data<Acc>(row_losses),
                                                                      data_or_null<Acc>(softmax_rows));
    check_launch();
  });
}

void cross_entropy_backward(Context context, const Tensor& dloss, const Tensor& logits, const Tensor& targets,
                            const Tensor& softmax_rows, const Tensor& divisor, Tensor& dlogits) {
  const std::int64_t rows = logits.dim(0), n = logits.dim(1);
  if (rows == 0) return;
  with_stored(logits.dtype(), [&]<class T>(T) {
    using Acc = compute_t<T>;
    const T* x = data<T>(logits);
    T* dx = data<T>(dlogits);
    const Rows arguments{rows, n, wide_rows(n, x, dx), data<std::int32_t>(targets)};
    const RowGrid grid = row_grid(rows, n, kPackSize<T>);
    backward_kernel<<<grid.blocks, grid.threads, 0, stream(context)>>>(
        arguments, x, data<Acc>(softmax_rows), data<Acc>(dloss), data<double>(divisor), dx);
    check_launch();
  });
}

void cross_entropy_in_place(Context context, const Tensor& targets, const Tensor& divisor, Tensor& logits,
                            Tensor& row_losses) {
  const std::int64_t rows = logits.dim(0), n = logits.dim(1);
  if (rows == 0) return;
  with_stored(logits.dtype(), [&]<class T>(T) {
    T* x = data<T>(logits);
    const Rows arguments{rows, n, wide_rows(n, x), data<std::int32_t>(targets)};
    const RowGrid grid = row_grid(rows, n, kPackSize<T>);
    in_place_kernel<<<grid.blocks, grid.threads, 0, stream(context)>>>(arguments, data<double>(divisor), x,
                                                                       data<compute_t<T>>(row_losses));
    check_launch();
  });
}

void divide_sum(Context context, const Tensor& x, const Tensor& divisor, Tensor& y) {
  with_stored(x.dtype(), [&]<class T>(T) {
    using Acc = compute_t<T>;
    scalar_sum(context, x.numel(), data<T>(x), Identity{},
               StoreQuotient<Acc>{data<double>(divisor), data<Acc>(y)});
  });
}

void scale_by(Context context, const Tensor& factor, Tensor& x) {
  const std::int64_t n = x.numel();
  if (n == 0) return;
  with_stored(x.dtype(), [&]<class T>(T) {
    T* p = data<T>(x);
    const std::int64_t block = kScaleThreads * kPackSize<T>;
    scale_by_kernel<<<static_cast<unsigned>(divide_up(n, block)), kScaleThreads, 0, stream(context)>>>(
        n, wide(p), data<compute_t<T>>(factor), p);
    check_launch();
  });
}

}  // namespace filigree::cuda
