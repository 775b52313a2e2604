// Launchers of elementwise kernels. The function of an element is a functor of core/elementwise.h, because a
// lambda of host code cannot be a kernel's template argument.
#pragma once

#include "core/cuda/math.cuh"
#include "core/cuda/pack.cuh"

namespace filigree::cuda {

inline constexpr int kMapThreads = 256;
inline constexpr int kMapPacks = 2;  // per thread and tensor, for more loads in flight

template <class T, int kInputs>
struct MapInputs {
  const T* pointers[kInputs];
};

template <class T, class F>
__device__ inline compute_t<T> apply_map(const F& f, const Pack<T> (&x)[1], int i) {
  return f(Math{}, x[0][i]);
}
template <class T, class F>
__device__ inline compute_t<T> apply_map(const F& f, const Pack<T> (&x)[2], int i) {
  return f(Math{}, x[0][i], x[1][i]);
}
template <class T, int kInputs, class F>
__global__ void __launch_bounds__(kMapThreads)
    map_kernel(std::int64_t n, bool wide, MapInputs<T, kInputs> x, T* y, F f) {
  constexpr int kSize = kPackSize<T>;
  const std::int64_t first = (std::int64_t{blockIdx.x} * kMapThreads * kMapPacks + threadIdx.x) * kSize;
  Pack<T> in[kMapPacks][kInputs];
#pragma unroll
  for (int p = 0; p < kMapPacks; ++p) {
    const std::int64_t at = first + p * kMapThreads * kSize;
#pragma unroll
    for (int j = 0; j < kInputs; ++j) in[p][j] = load_pack(x.pointers[j] + at, n - at, wide);
  }
#pragma unroll
  for (int p = 0; p < kMapPacks; ++p) {
    const std::int64_t at = first + p * kMapThreads * kSize;
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kSize; ++i) out.set(i, apply_map(f, in[p], i));
    store_pack(y + at, out, n - at, wide);
  }
}

// y[i] = f(x[i], ...) in the type that the tensors' is computed in; all have one dtype and size. y may be one
// of the x.
template <class F, class... In>
void map_tensors(Context context, Tensor& y, F f, const In&... x) {
  const std::int64_t n = y.numel();
  if (n == 0) return;
  with_stored(y.dtype(), [&]<class T>(T) {
    const MapInputs<T, sizeof...(In)> inputs{{data<T>(x)...}};
    const std::int64_t block = kMapThreads * kMapPacks * kPackSize<T>;
    map_kernel<T, sizeof...(In), F>
        <<<static_cast<unsigned>(divide_up(n, block)), kMapThreads, 0, stream(context)>>>(
            n, wide(data<T>(y), data<T>(x)...), inputs, data<T>(y), f);
    check_launch();
  });
}

struct Quotient {
  std::int64_t quotient, remainder;
};

// In 32 bits where that is enough: 64-bit division takes some 100 instructions. Neither is negative.
__device__ inline Quotient divide_index(std::int64_t i, std::int64_t divisor) {
  if (((i | divisor) >> 32) == 0) {
    const auto a = static_cast<std::uint32_t>(i), b = static_cast<std::uint32_t>(divisor), q = a / b;
    return {q, a - q * b};
  }
  const std::int64_t q = i / divisor;
  return {q, i - q * divisor};
}

template <int kSize, class F>
__global__ void __launch_bounds__(kMapThreads)
    row_packs_kernel(std::int64_t rows, std::int64_t packs_per_row, F f) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kMapThreads + threadIdx.x;
  if (i >= rows * packs_per_row) return;
  const Quotient at = divide_index(i, packs_per_row);
  f(at.quotient, at.remainder * kSize);
}

// f(row, column) on the device for every row and every kSize-th column of [rows, width]: for tensors whose
// rows lie in different places. Neighbouring threads have neighbouring columns.
template <int kSize, class F>
void for_row_packs(Context context, std::int64_t rows, std::int64_t width, F f) {
  if (rows == 0 || width == 0) return;
  const std::int64_t packs_per_row = divide_up(width, kSize);
  row_packs_kernel<kSize><<<static_cast<unsigned>(divide_up(rows * packs_per_row, kMapThreads)), kMapThreads,
                            0, stream(context)>>>(rows, packs_per_row, f);
  check_launch();
}

}  // namespace filigree::cuda
