// Rotary positions. A block computes the rotations of its few positions once, in f64, and applies them to all
// heads. The frequencies are a kernel parameter, computed as on the CPU; very wide heads take several
// launches.
#include <algorithm>
#include <cmath>

#include "core/cuda/elementwise.cuh"

namespace filigree::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxPairs = 256;        // per launch
constexpr int kBlockRotations = 512;  // positions times pairs

// Pairs [first, first + count) of a head's `half`.
struct Pairs {
  int first, count;
  double frequencies[kMaxPairs];
};

template <class T>
struct Rope {
  std::int64_t positions, heads, n_heads, half;  // n_heads of the heads are turned
  std::int64_t n0;
  std::int64_t tile;  // positions per block
  bool inverse, wide;
  const T* x;
  T* y;
};

template <class Acc>
struct Rotation {
  Acc cosine, sine;
};

// The rotation by an angle of any size that n * frequency may have. Whole turns are taken off first, with 2 pi in two
// parts: the library's own reduction would need memory.
template <class Acc>
__device__ Rotation<Acc> rotation(double angle, bool inverse) {
  constexpr double kTurn = 6.283185307179586, kTurnRest = 2.4492935982947064e-16;
  constexpr double kPerTurn = 0.15915494309189535, kPerPi = 0.3183098861837907;
  const double turns = std::rint(angle * kPerTurn);
  const double rest = std::fma(-turns, kTurnRest, std::fma(-turns, kTurn, angle));
  double sine, cosine;
  sincospi(rest * kPerPi, &sine, &cosine);
  return {static_cast<Acc>(cosine), static_cast<Acc>(inverse ? -sine : sine)};
}

template <class T>
__global__ void __launch_bounds__(kThreads) rope_kernel(Rope<T> a, const __grid_constant__ Pairs pairs) {
  using Acc = compute_t<T>;
  constexpr int kSize = kPackSize<T>;
  __shared__ Rotation<Acc> rotations[kBlockRotations];
  const std::int64_t tiles = divide_up(a.positions, a.tile);
  const std::int64_t batch = blockIdx.x / tiles, first = blockIdx.x % tiles * a.tile;
  const int rows = static_cast<int>(std::min(a.tile, a.positions - first));
  for (int i = static_cast<int>(threadIdx.x); i < rows * pairs.count; i += kThreads) {
    const double position = static_cast<double>(a.n0 + first + i / pairs.count);
    rotations[i] = rotation<Acc>(position * pairs.frequencies[i % pairs.count], a.inverse);
  }
  __syncthreads();

  const std::int64_t packs = divide_up(pairs.count, kSize);
  for (std::int64_t unit = threadIdx.x; unit < rows * a.n_heads * packs; unit += kThreads) {
    const Quotient of_pack = divide_index(unit, packs), of_head = divide_index(of_pack.quotient, a.n_heads);
    const std::int64_t row = of_head.quotient, head = of_head.remainder;
    const int pair = static_cast<int>(of_pack.remainder) * kSize, count = pairs.count - pair;
    const std::int64_t at =
        (((batch * a.positions + first + row) * a.heads + head) * 2) * a.half + pairs.first + pair;
    Pack<T> low = load_pack(a.x + at, count, a.wide), high = load_pack(a.x + at + a.half, count, a.wide);
    const Rotation<Acc>* turn = rotations + row * pairs.count + pair;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const Rotation<Acc> r = i < count ? turn[i] : Rotation<Acc>{};
      const Acc l = low[i], h = high[i];
      low.set(i, l * r.cosine - h * r.sine);
      high.set(i, h * r.cosine + l * r.sine);
    }
    store_pack(a.y + at, low, count, a.wide);
    store_pack(a.y + at + a.half, high, count, a.wide);
  }
}

}  // namespace

void rope(Context context, const Tensor& x, std::int64_t n_heads, double theta, std::int64_t n0, bool inverse,
          Tensor& y) {
  const std::int64_t batch = x.dim(0), positions = x.dim(1), half = x.dim(3) / 2;
  if (x.numel() == 0 || n_heads == 0) return;
  with_stored(x.dtype(), [&]<class T>(T) {
    const T* px = data<T>(x);
    T* py = data<T>(y);
    Rope<T> a{positions, x.dim(2), n_heads, half, n0, 0, inverse, wide_rows(half, px, py), px, py};
    for (std::int64_t first = 0; first < half; first += kMaxPairs) {
      Pairs pairs{
          static_cast<int>(first), static_cast<int>(std::min<std::int64_t>(kMaxPairs, half - first)), {}};
      for (int i = 0; i < pairs.count; ++i)
        pairs.frequencies[i] = std::pow(theta, -static_cast<double>(first + i) / static_cast<double>(half));
      a.tile = std::min<std::int64_t>(positions, kBlockRotations / pairs.count);
      const std::int64_t blocks = batch * divide_up(positions, a.tile);
      rope_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream(context)>>>(a, pairs);
      check_launch();
    }
  });
}

}  // namespace filigree::cuda
