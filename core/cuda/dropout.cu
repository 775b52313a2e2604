// Inverted dropout whose mask is a function of the key alone, so that backward draws it again.
#include <algorithm>
#include <cmath>

#include "core/cuda/pack.cuh"

namespace filigree::cuda {
namespace {

constexpr int kThreads = 256;
template <class T>
constexpr int kThreadElements = std::max(4, kPackSize<T>);  // whole blocks of four draws

// An element is dropped where its draw is below `threshold`.
template <class T>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(std::int64_t n, bool wide, const T* x, std::uint32_t threshold, compute_t<T> factor,
                   RandomKey key, const std::uint32_t* step, T* y) {
  constexpr int kSize = kThreadElements<T>;
  const std::int64_t first = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kSize;
  if (first >= n) return;
  auto pack = load_pack<T, kSize>(x + first, n - first, wide);
  if (step) key.step += *step;
#pragma unroll
  for (int block = 0; block < kSize / 4; ++block) {
    const PhiloxCounter draws = key.block(static_cast<std::uint64_t>(first / 4 + block));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const compute_t<T> kept = pack[4 * block + i] * factor;
      pack.set(4 * block + i, draws[i] < threshold ? compute_t<T>(0) : kept);
    }
  }
  store_pack(y + first, pack, n - first, wide);
}

}  // namespace

void dropout(Context context, const Tensor& x, double p, RandomKey key, const Tensor& step, Tensor& y) {
  const std::int64_t n = x.numel();
  if (n == 0) return;
  const auto threshold = static_cast<std::uint32_t>(std::min(std::llround(p * 0x1p32), 0xffffffffLL));
  with_stored(x.dtype(), [&]<class T>(T) {
    const std::int64_t block = kThreads * kThreadElements<T>;
    dropout_kernel<<<static_cast<unsigned>(divide_up(n, block)), kThreads, 0, stream(context)>>>(
        n, wide(data<T>(x), data<T>(y)), data<T>(x), threshold, static_cast<compute_t<T>>(1 / (1 - p)), key,
        data_or_null<std::uint32_t>(step), data<T>(y));
    check_launch();
  });
}

}  // namespace filigree::cuda
