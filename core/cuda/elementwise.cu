// Functions of each element (core/elementwise.h), and swiglu's gradients.
#include "core/cuda/elementwise.cuh"
#include "core/cuda/math.cuh"

namespace filigree::cuda {
namespace {

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
    for (int i = 0; i < kPackSize<T>; ++i) out.set(i, f(Math{}, pa[i], pb[i]));
    store_pack(y + at, out, count, wide);
  }
};

template <class T>
__global__ void __launch_bounds__(kMapThreads)
    swiglu_backward_kernel(std::int64_t n, bool wide, const T* dy, const T* gate, const T* up, T* dgate,
                           T* dup) {
  constexpr int kSize = kPackSize<T>;
  const std::int64_t at = (std::int64_t{blockIdx.x} * kMapThreads + threadIdx.x) * kSize;
  const Pack<T> d = load_pack(dy + at, n - at, wide), g = load_pack(gate + at, n - at, wide),
                u = load_pack(up + at, n - at, wide);
  Pack<T> out_gate, out_up;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    compute_t<T> of_gate, of_up;
    elementwise::swiglu_gradient(Math{}, d[i], g[i], u[i], of_gate, of_up);
    out_gate.set(i, of_gate);
    out_up.set(i, of_up);
  }
  store_pack(dgate + at, out_gate, n - at, wide);
  store_pack(dup + at, out_up, n - at, wide);
}

}  // namespace

void map(Context context, const elementwise::Unary& function, const Tensor& x, Tensor& y) {
  std::visit([&](auto f) { map_tensors(context, y, f, x); }, function);
}

void map(Context context, const elementwise::Binary& function, const Tensor& a, const Tensor& b, Tensor& y) {
  const std::int64_t n = a.numel(), width = b.numel();
  if (n == 0) return;
  std::visit(
      [&]<class F>(F f) {
        if (n == width) return map_tensors(context, y, f, a, b);
        with_stored(a.dtype(), [&]<class T>(T) {
          const T *pa = data<T>(a), *pb = data<T>(b);
          T* py = data<T>(y);
          for_row_packs<kPackSize<T>>(context, n / width, width,
                                      Broadcast<T, F>{pa, pb, py, width, wide_rows(width, pa, pb, py), f});
        });
      },
      function);
}

void swiglu_backward(Context context, const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                     Tensor& dup) {
  const std::int64_t n = gate.numel();
  if (n == 0) return;
  with_stored(gate.dtype(), [&]<class T>(T) {
    const T *d = data<T>(dy), *g = data<T>(gate), *u = data<T>(up);
    T *dg = data<T>(dgate), *du = data<T>(dup);
    const std::int64_t block = kMapThreads * kPackSize<T>;
    swiglu_backward_kernel<<<static_cast<unsigned>(divide_up(n, block)), kMapThreads, 0, stream(context)>>>(
        n, wide(d, g, u, dg, du), d, g, u, dg, du);
    check_launch();
  });
}

}  // namespace filigree::cuda
