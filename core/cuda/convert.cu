// Conversions between f32, f64 and bf16.
#include <algorithm>
#include <type_traits>

#include "core/cuda/pack.cuh"

namespace filigree::cuda {
namespace {

constexpr int kThreads = 256;
template <class From, class To>
constexpr int kConvertSize = std::max(kPackSize<From>, kPackSize<To>);

template <class From, class To>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(std::int64_t n, bool wide, const From* from, To* to) {
  constexpr int kSize = kConvertSize<From, To>;
  const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kSize;
  const auto in = load_pack<From, kSize>(from + at, n - at, wide);
  Pack<To, kSize> out;
#pragma unroll
  for (int i = 0; i < kSize; ++i) out.set(i, static_cast<compute_t<To>>(in[i]));
  store_pack(to + at, out, n - at, wide);
}

}  // namespace

void convert(Context context, const Tensor& x, Tensor& y) {
  const std::int64_t n = x.numel();
  if (n == 0) return;
  with_stored(x.dtype(), [&]<class From>(From) {
    with_stored(y.dtype(), [&]<class To>(To) {
      if constexpr (!std::is_same_v<From, To>) {
        const std::int64_t block = kThreads * kConvertSize<From, To>;
        convert_kernel<<<static_cast<unsigned>(divide_up(n, block)), kThreads, 0, stream(context)>>>(
            n, wide(data<From>(x), data<To>(y)), data<From>(x), data<To>(y));
        check_launch();
      }
    });
  });
}

}  // namespace filigree::cuda
