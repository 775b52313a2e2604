// Layer norm (Ba et al. 2016) and RMS norm (Zhang & Sennrich 2019), which is the same without the mean. A row
// is read once and stays in the registers of its team of warps; rows too wide for that are read again, out of
// the caches.
#include <algorithm>
#include <cmath>

#include "core/cuda/column_sum.cuh"
#include "core/cuda/reduce.cuh"

namespace filigree::cuda {
namespace {

constexpr int kPacks = 3;         // of a row, per thread: a warp holds 768 bf16
constexpr int kMaxThreads = 512;  // so that a thread may have 128 registers, half as many in the forward
constexpr int kMaxTeamWarps = kMaxThreads / 32;

// Warps that hold a row of n elements in their registers; more than kMaxTeamWarps: none do.
template <class T>
std::int64_t team_warps(std::int64_t n) {
  return divide_up(n, 32 * kPacks * kPackSize<T>);
}

template <class T>
__device__ Pack<T> add_packs(const Pack<T>& a, const Pack<T>& b) {
  Pack<T> sum;
#pragma unroll
  for (int i = 0; i < kPackSize<T>; ++i) sum.set(i, a[i] + b[i]);
  return sum;
}

template <class T>
__device__ compute_t<T> pack_sum(const Pack<T>& x) {
  compute_t<T> sum = 0;
#pragma unroll
  for (int i = 0; i < kPackSize<T>; ++i) sum += x[i];
  return sum;
}

// The sum of (x - mean)^2 over the x that exist.
template <class T>
__device__ compute_t<T> pack_squares(const Pack<T>& x, compute_t<T> mean, std::int64_t count) {
  compute_t<T> sum = 0;
#pragma unroll
  for (int i = 0; i < kPackSize<T>; ++i) {
    const compute_t<T> deviation = i < count ? x[i] - mean : compute_t<T>(0);
    sum += deviation * deviation;
  }
  return sum;
}

template <class T>
struct NormForward {
  using Acc = compute_t<T>;
  static constexpr int kSize = kPackSize<T>;

  std::int64_t rows, n;
  const T *x, *branch;  // without a branch, x is normed; else `sum`
  const Acc *weight, *bias;
  Acc eps;
  T *sum, *y;
  Acc *mean, *rstd;
  bool wide;

  __device__ Pack<T> load(const T* tensor, std::int64_t row, std::int64_t c) const {
    return load_pack(tensor + row * n + c, n - c, wide);
  }
  // x + branch, which is stored in `sum`.
  __device__ Pack<T> store_sum(std::int64_t row, std::int64_t c, const Pack<T>& a, const Pack<T>& b) const {
    const Pack<T> both = add_packs(a, b);
    store_pack(sum + row * n + c, both, n - c, wide);
    return both;
  }
  __device__ Acc row_rstd(Acc squares) const {
    return Acc(1) / std::sqrt(squares / static_cast<Acc>(n) + eps);
  }
  __device__ void store_statistics(std::int64_t row, Acc row_mean, Acc row_rstd) const {
    if (threadIdx.x > 0) return;
    if (mean) mean[row] = row_mean;
    rstd[row] = row_rstd;
  }
  __device__ void store_normed(std::int64_t row, std::int64_t c, const Pack<T>& pack, Acc row_mean,
                               Acc row_rstd) const {
    const auto w = load_pack<Acc, kSize>(weight + c, n - c, wide);
    Pack<Acc, kSize> b{};
    if (bias) b = load_pack<Acc, kSize>(bias + c, n - c, wide);
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kSize; ++i) out.set(i, (pack[i] - row_mean) * row_rstd * w[i] + b[i]);
    store_pack(y + row * n + c, out, n - c, wide);
  }
};

// The first column of this thread's p-th pack of a row.
template <class T>
__device__ int pack_column(int p) {
  return (p * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kPackSize<T>;
}

template <class T>
__device__ void keep_packed(Pack<T> (&packs)[kPacks]) {
#pragma unroll
  for (Pack<T>& pack : packs) pack.keep_packed();
}

// A team is one warp, or it is the block.
template <class T>
__global__ void __launch_bounds__(kMaxThreads, 2) norm_forward_kernel(NormForward<T> a) {
  using Acc = compute_t<T>;
  const std::int64_t row = grid_row();
  if (row >= a.rows) return;
  Pack<T> x[kPacks], branch[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (pack_column<T>(p) >= a.n) continue;
    x[p] = a.load(a.x, row, pack_column<T>(p));
    if (a.branch) branch[p] = a.load(a.branch, row, pack_column<T>(p));
  }
  if (a.branch) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (pack_column<T>(p) < a.n) x[p] = a.store_sum(row, pack_column<T>(p), x[p], branch[p]);
  }
  Acc mean = 0;
  if (a.mean) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (pack_column<T>(p) < a.n) mean += pack_sum(x[p]);
    mean = team_sum(mean) / static_cast<Acc>(a.n);
    keep_packed(x);
  }
  Acc squares = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
    if (pack_column<T>(p) < a.n) squares += pack_squares(x[p], mean, a.n - pack_column<T>(p));
  const Acc rstd = a.row_rstd(team_sum(squares));
  keep_packed(x);
  a.store_statistics(row, mean, rstd);
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
    if (pack_column<T>(p) < a.n) a.store_normed(row, pack_column<T>(p), x[p], mean, rstd);
}

// One block per row, which it reads three times. A thread reads what it has itself stored in `sum`.
template <class T>
__global__ void __launch_bounds__(kMaxThreads) norm_forward_wide_kernel(NormForward<T> a) {
  using Acc = compute_t<T>;
  const std::int64_t row = blockIdx.x, n = a.n, step = kMaxThreads * kPackSize<T>;
  const std::int64_t first = std::int64_t{threadIdx.x} * kPackSize<T>;
  const T* x = a.branch ? a.sum : a.x;
  Acc mean = 0;
  for (std::int64_t c = first; c < n; c += step) {
    Pack<T> pack = a.load(a.x, row, c);
    if (a.branch) pack = a.store_sum(row, c, pack, a.load(a.branch, row, c));
    mean += pack_sum(pack);
  }
  mean = a.mean ? team_sum(mean) / static_cast<Acc>(n) : Acc(0);
  Acc squares = 0;
  for (std::int64_t c = first; c < n; c += step) squares += pack_squares(a.load(x, row, c), mean, n - c);
  const Acc rstd = a.row_rstd(team_sum(squares));
  a.store_statistics(row, mean, rstd);
  for (std::int64_t c = first; c < n; c += step) a.store_normed(row, c, a.load(x, row, c), mean, rstd);
}

template <class T>
struct TwoSums {
  T g, g_x;
  __device__ TwoSums operator+(const TwoSums& o) const { return {g + o.g, g_x + o.g_x}; }
};

// dx = rstd (g - mean(g) - (x - mean) rstd^2 mean(g (x - mean))) + dsum with g = dy weight; RMS norm has no
// mean(g). dweight = sum over rows of dy (x - mean) rstd, dbias that of dy.
template <class T>
struct NormBackward {
  using Acc = compute_t<T>;
  static constexpr int kSize = kPackSize<T>;

  std::int64_t rows, n;
  const T *dy, *x;
  const Acc *weight, *mean, *rstd;
  const T* dsum;
  T* dx;         // null: not wanted
  Acc* partial;  // [2, blocks, n]: sums of dweight and of dbias; null: neither is wanted
  bool wide;

  __device__ Acc row_mean(std::int64_t row) const { return mean ? mean[row] : Acc(0); }

  // Where an element does not exist dy is 0, and so are its summands.
  __device__ TwoSums<Acc> sums(const Pack<T>& d, const Pack<T>& v, std::int64_t c, Acc m) const {
    const auto w = load_pack<Acc, kSize>(weight + c, n - c, wide);
    TwoSums<Acc> s{0, 0};
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      s.g += d[i] * w[i];
      s.g_x += d[i] * w[i] * (v[i] - m);
    }
    return s;
  }
  // Zeros where there is none.
  __device__ Pack<T> load_dsum(std::int64_t row, std::int64_t c) const {
    return dsum ? load_pack(dsum + row * n + c, n - c, wide) : Pack<T>{};
  }
  __device__ void store_dx(std::int64_t row, std::int64_t c, const Pack<T>& d, const Pack<T>& v,
                           const Pack<T>& residual, Acc m, Acc r, const TwoSums<Acc>& s) const {
    const Acc mean_g = mean ? s.g / static_cast<Acc>(n) : Acc(0);
    const Acc slope = s.g_x / static_cast<Acc>(n) * r * r;
    const auto w = load_pack<Acc, kSize>(weight + c, n - c, wide);
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kSize; ++i) out.set(i, residual[i] + r * (d[i] * w[i] - mean_g - (v[i] - m) * slope));
    store_pack(dx + row * n + c, out, n - c, wide);
  }
};

// The sums of a block's teams, tree-wise, to the first team; the number of teams is a power of two.
template <class Acc, int kSize>
__device__ void add_teams(Acc (&sum)[kPacks][kSize]) {
  __shared__ Acc shared[kPacks * kSize * kMaxThreads / 4];  // half of the threads of 8 warps
  const int team = static_cast<int>(threadIdx.y), team_threads = static_cast<int>(blockDim.x);
  for (int half = static_cast<int>(blockDim.y) / 2; half > 0; half /= 2) {
    Acc* slot = shared + (team % half) * team_threads + static_cast<int>(threadIdx.x);
    const int stride = half * team_threads;
    if (team >= half && team < 2 * half) {
#pragma unroll
      for (int i = 0; i < kPacks * kSize; ++i) slot[i * stride] = sum[i / kSize][i % kSize];
    }
    __syncthreads();
    if (team < half) {
#pragma unroll
      for (int i = 0; i < kPacks * kSize; ++i) sum[i / kSize][i % kSize] += slot[i * stride];
    }
    __syncthreads();
  }
}

template <class T, class Acc = compute_t<T>>
__device__ void store_partial(const Acc (&sum)[kPacks][kPackSize<T>], std::int64_t n, Acc* to) {
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
#pragma unroll
    for (int i = 0; i < kPackSize<T>; ++i)
      if (pack_column<T>(p) + i < n) to[pack_column<T>(p) + i] = sum[p][i];
}

// A block's teams take rows in step.
template <class T>
__global__ void __launch_bounds__(kMaxThreads) norm_backward_kernel(NormBackward<T> a) {
  using Acc = compute_t<T>;
  constexpr int kSize = kPackSize<T>;
  Acc dweight[kPacks][kSize] = {}, dbias[kPacks][kSize] = {};
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.y;
  for (std::int64_t first = std::int64_t{blockIdx.x} * blockDim.y; first < a.rows; first += step) {
    const std::int64_t row = first + threadIdx.y;
    const int n = row < a.rows ? static_cast<int>(a.n) : 0;  // no columns for a team without a row
    Pack<T> dy[kPacks], x[kPacks], residual[kPacks];
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int c = pack_column<T>(p);
      if (c >= n) continue;
      dy[p] = load_pack(a.dy + row * a.n + c, n - c, a.wide);
      x[p] = load_pack(a.x + row * a.n + c, n - c, a.wide);
      residual[p] = a.load_dsum(row, c);
    }
    const Acc mean = n > 0 ? a.row_mean(row) : Acc(0), rstd = n > 0 ? a.rstd[row] : Acc(0);
    TwoSums<Acc> sums{0, 0};
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (pack_column<T>(p) >= n) continue;
      sums = sums + a.sums(dy[p], x[p], pack_column<T>(p), mean);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        dweight[p][i] += dy[p][i] * ((x[p][i] - mean) * rstd);
        dbias[p][i] += dy[p][i];
      }
    }
    sums = team_reduce(sums, TwoSums<Acc>{0, 0}, Plus{});
    if (!a.dx) continue;
    keep_packed(dy);
    keep_packed(x);
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (pack_column<T>(p) < n)
        a.store_dx(row, pack_column<T>(p), dy[p], x[p], residual[p], mean, rstd, sums);
  }
  if (!a.partial) return;
  add_teams(dweight);
  add_teams(dbias);
  if (threadIdx.y > 0) return;
  store_partial<T>(dweight, a.n, a.partial + blockIdx.x * a.n);
  store_partial<T>(dbias, a.n, a.partial + (std::int64_t{gridDim.x} + blockIdx.x) * a.n);
}

// dx of rows too wide for registers: one block per row.
template <class T>
__global__ void __launch_bounds__(kMaxThreads) norm_backward_wide_kernel(NormBackward<T> a) {
  using Acc = compute_t<T>;
  const std::int64_t row = blockIdx.x, n = a.n, step = kMaxThreads * kPackSize<T>;
  const std::int64_t first = std::int64_t{threadIdx.x} * kPackSize<T>;
  const T *dy = a.dy + row * n, *x = a.x + row * n;
  const Acc mean = a.row_mean(row), rstd = a.rstd[row];
  TwoSums<Acc> sums{0, 0};
  for (std::int64_t c = first; c < n; c += step)
    sums = sums + a.sums(load_pack(dy + c, n - c, a.wide), load_pack(x + c, n - c, a.wide), c, mean);
  sums = team_reduce(sums, TwoSums<Acc>{0, 0}, Plus{});
  for (std::int64_t c = first; c < n; c += step)
    a.store_dx(row, c, load_pack(dy + c, n - c, a.wide), load_pack(x + c, n - c, a.wide), a.load_dsum(row, c),
               mean, rstd, sums);
}

// dweight's summands, for rows too wide for registers.
template <class T>
struct WeightGradientRows {
  static constexpr int kSize = kPackSize<T>, kUnroll = 1;
  using Acc = compute_t<T>;
  struct Loaded {
    Pack<T> dy, x;
    Acc mean, rstd;
  };

  MatrixRows<T> dy, x;
  const Acc *mean, *rstd;

  __device__ Loaded load(std::int64_t batch, std::int64_t row, std::int64_t column) const {
    return {dy.load(batch, row, column), x.load(batch, row, column), mean ? mean[row] : Acc(0), rstd[row]};
  }
  __device__ void add(const Loaded& v, Acc (&sum)[kSize]) const {
#pragma unroll
    for (int i = 0; i < kSize; ++i) sum[i] += v.dy[i] * ((v.x[i] - v.mean) * v.rstd);
  }
};

template <class T>
void launch_forward(Context context, const NormForward<T>& a) {
  if (a.rows == 0 || a.n == 0) return;
  const std::int64_t warps = team_warps<T>(a.n);
  if (warps > kMaxTeamWarps) {
    norm_forward_wide_kernel<<<static_cast<unsigned>(a.rows), kMaxThreads, 0, stream(context)>>>(a);
  } else {
    const unsigned teams = warps == 1 ? 4 : 1;
    const dim3 threads(static_cast<unsigned>(32 * warps), teams);
    norm_forward_kernel<<<static_cast<unsigned>(divide_up(a.rows, teams)), threads, 0, stream(context)>>>(a);
  }
  check_launch();
}

// dx, dweight and dbias in one pass over memory.
template <class T>
void backward_at_once(Context context, NormBackward<T> a, Tensor& dweight, Tensor& dbias) {
  using Acc = compute_t<T>;
  constexpr std::int64_t kMaxBlocks = 264, kBlockWarps = 8;  // two blocks for each multiprocessor of an H100
  const std::int64_t warps = team_warps<T>(a.n), teams = std::max<std::int64_t>(1, kBlockWarps / warps);
  const std::int64_t blocks = std::min(kMaxBlocks, divide_up(a.rows, 2 * teams));
  Tensor partial;
  if (dweight.defined() || dbias.defined()) partial = workspace<Acc>(context, 2 * blocks * a.n);
  a.partial = data_or_null<Acc>(partial);
  const dim3 threads(static_cast<unsigned>(32 * warps), static_cast<unsigned>(teams));
  norm_backward_kernel<<<static_cast<unsigned>(blocks), threads, 0, stream(context)>>>(a);
  check_launch();
  if (dweight.defined())
    add_partial_sums(context, data<Acc>(partial), 1, blocks, a.n, StoreSum<Acc>{data<Acc>(dweight), a.n});
  if (dbias.defined())
    add_partial_sums(context, data<Acc>(partial) + blocks * a.n, 1, blocks, a.n,
                     StoreSum<Acc>{data<Acc>(dbias), a.n});
}

template <class T>
void backward_one_by_one(Context context, const NormBackward<T>& a, Tensor& dweight, Tensor& dbias) {
  using Acc = compute_t<T>;
  if (a.dx) {
    norm_backward_wide_kernel<<<static_cast<unsigned>(a.rows), kMaxThreads, 0, stream(context)>>>(a);
    check_launch();
  }
  const MatrixRows<T> dy{a.dy, a.rows, a.n, a.wide}, x{a.x, a.rows, a.n, a.wide};
  if (dweight.defined())
    sum_columns(context, 1, a.rows, a.n, WeightGradientRows<T>{dy, x, a.mean, a.rstd},
                StoreSum<Acc>{data<Acc>(dweight), a.n});
  if (dbias.defined()) sum_columns(context, 1, a.rows, a.n, dy, StoreSum<Acc>{data<Acc>(dbias), a.n});
}

}  // namespace

void norm_forward(Context context, const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                  Tensor& y, Tensor& mean, Tensor& rstd) {
  with_stored(x.dtype(), [&]<class T>(T) {
    using Acc = compute_t<T>;
    const T* px = data<T>(x);
    const Acc *w = data<Acc>(weight), *b = data_or_null<Acc>(bias);
    T* py = data<T>(y);
    const std::int64_t n = x.dim(-1);
    launch_forward(context, NormForward<T>{rstd.numel(), n, px, nullptr, w, b, static_cast<Acc>(eps), nullptr,
                                           py, data_or_null<Acc>(mean), data<Acc>(rstd),
                                           wide_rows(n, px, py) && wide(w, b)});
  });
}

void add_norm_forward(Context context, const Tensor& x, const Tensor& branch, const Tensor& weight,
                      const Tensor& bias, double eps, Tensor& sum, Tensor& y, Tensor& mean, Tensor& rstd) {
  with_stored(x.dtype(), [&]<class T>(T) {
    using Acc = compute_t<T>;
    const T *px = data<T>(x), *pb = data<T>(branch);
    const Acc *w = data<Acc>(weight), *b = data_or_null<Acc>(bias);
    T *ps = data<T>(sum), *py = data<T>(y);
    const std::int64_t n = x.dim(-1);
    launch_forward(context, NormForward<T>{rstd.numel(), n, px, pb, w, b, static_cast<Acc>(eps), ps, py,
                                           data_or_null<Acc>(mean), data<Acc>(rstd),
                                           wide_rows(n, px, pb, ps, py) && wide(w, b)});
  });
}

void norm_backward(Context context, const Tensor& dy, const Tensor& x, const Tensor& weight,
                   const Tensor& mean, const Tensor& rstd, const Tensor& dsum, Tensor& dx, Tensor& dweight,
                   Tensor& dbias) {
  const std::int64_t n = x.dim(-1), rows = rstd.numel();
  if (rows == 0 || n == 0) {
    if (dweight.defined()) dweight.fill_zero();
    if (dbias.defined()) dbias.fill_zero();
    return;
  }
  with_stored(x.dtype(), [&]<class T>(T) {
    using Acc = compute_t<T>;
    const T *pdy = data<T>(dy), *px = data<T>(x), *residual = data_or_null<T>(dsum);
    T* pdx = data_or_null<T>(dx);
    const Acc* w = data<Acc>(weight);
    const NormBackward<T> arguments{rows,
                                    n,
                                    pdy,
                                    px,
                                    w,
                                    data_or_null<Acc>(mean),
                                    data<Acc>(rstd),
                                    residual,
                                    pdx,
                                    nullptr,
                                    wide_rows(n, pdy, px, residual, pdx) && wide(w)};
    if (team_warps<T>(n) > kMaxTeamWarps)
      backward_one_by_one(context, arguments, dweight, dbias);
    else
      backward_at_once(context, arguments, dweight, dbias);
  });
}

}  // namespace filigree::cuda
