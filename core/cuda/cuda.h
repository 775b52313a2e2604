// For .cu files only: the device's state, checked calls, and what most kernels share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <source_location>

#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cuda {

// Throws std::logic_error with CUDA's message and the source position.
void check_cuda(cudaError_t status, std::source_location where = std::source_location::current());
// After a kernel launch.
inline void check_launch(std::source_location where = std::source_location::current()) {
  check_cuda(cudaGetLastError(), where);
}

cudaStream_t stream(Context context);
int multiprocessors(Context context);
bool is_hopper(Context context);  // compute capability 9.0: code for sm_90a runs
bool capturing(Context context);  // into a graph: nothing may wait or be timed

using bfloat16 = __nv_bfloat16;

// The type that a stored element is computed in.
template <class T>
struct Compute {
  using type = T;
};
template <>
struct Compute<bfloat16> {
  using type = float;
};
template <class T>
using compute_t = typename Compute<T>::type;

template <class T>
__host__ __device__ inline compute_t<T> widen(T x) {
  return static_cast<compute_t<T>>(x);
}
template <class T>
__host__ __device__ inline T narrow(compute_t<T> x) {
  return static_cast<T>(x);  // to nearest even
}

// Calls f with a zero of the stored type: f32, f64 or bf16.
template <class F>
decltype(auto) with_stored(DType type, F&& f) {
  if (type == DType::f64) return f(double{});
  if (type == DType::bf16) return f(bfloat16{});
  check(type == DType::f32, "a computing kernel was given an integer dtype");
  return f(float{});
}

template <class T>
T* data(Tensor& t) {
  return static_cast<T*>(t.raw_data());
}
template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.raw_data());
}
template <class T>
T* data_or_null(Tensor& t) {
  return t.defined() ? static_cast<T*>(t.raw_data()) : nullptr;
}
template <class T>
const T* data_or_null(const Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.raw_data()) : nullptr;
}

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// A workspace that lives until the call's kernels have run: freed blocks are reused in stream order.
template <class T>
Tensor workspace(Context context, std::int64_t elements) {
  return Tensor::empty({elements * static_cast<std::int64_t>(sizeof(T))}, DType::u8,
                       Device::cuda(context.device));
}

}  // namespace filigree::cuda
