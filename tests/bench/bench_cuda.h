// Timing on the GPU for the benchmarks: the median over groups of launches, the host waiting once a group.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "core/build_info.h"
#include "core/ops.h"
#include "core/stream.h"

namespace filigree {

// Milliseconds per call of f, which enqueues work on the GPU.
template <class F>
double median_ms(F&& f, int groups = 7, double group_ms = 30) {
  using Clock = std::chrono::steady_clock;
  const Device device = Device::cuda();
  const auto time = [&](int calls) {
    synchronize(device);
    const auto begin = Clock::now();
    for (int i = 0; i < calls; ++i) f();
    synchronize(device);
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count() / calls;
  };
  time(2);  // warm-up
  const int calls = std::clamp(static_cast<int>(group_ms / std::max(1e-3, time(2))), 1, 500);
  std::vector<double> times;
  for (int i = 0; i < groups; ++i) times.push_back(time(calls));
  std::ranges::sort(times);
  return times[times.size() / 2];
}

// Random values of deviation about 1 in this dtype, made on the device from few draws: [rows, 16] x [16,
// columns].
inline Tensor random_on_device(const Shape& shape, DType type, std::uint64_t seed) {
  const NoGrad no_tape;
  const std::int64_t columns = shape[-1], rows = shape.numel() / columns;
  RandomStream random(seed);
  const auto draws = [&](std::int64_t n) {
    std::vector<float> values(static_cast<std::size_t>(n));
    for (float& x : values) x = static_cast<float>(random.normal());
    return values;
  };
  const Var a(Tensor::of({rows, 16}, draws(rows * 16), Device::cuda()));
  const Var b(Tensor::of({columns, 16}, draws(columns * 16), Device::cuda()));
  return ops::scale(ops::matmul(a, b, false, true), 0.25).value().to(type).reshape(shape);
}

inline bool have_cuda() {
  const std::string why = cuda_unavailable();
  if (!why.empty()) std::fprintf(stderr, "no GPU: %s\n", why.c_str());
  return why.empty();
}

}  // namespace filigree
