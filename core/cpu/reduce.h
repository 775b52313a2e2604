// Sums and maxima in an order that depends on the shape alone, in a form that GCC vectorises without
// -ffast-math.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/parallel.h"

namespace filigree::cpu {

// Reduces element(0) .. element(n - 1) in 128 bytes of lanes (4 AVX2 registers, to hide the latency of adds):
// lane l takes elements l, l + lanes, ...; then the lanes are combined pairwise.
template <class T, class Combine, class Element>
inline T lane_reduce(std::int64_t n, T neutral, Combine combine, Element element) {
  constexpr int kLanes = 128 / sizeof(T);
  T lanes[kLanes];
  std::fill_n(lanes, kLanes, neutral);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] = combine(lanes[l], element(i + l));
  for (int l = 0; i + l < n; ++l) lanes[l] = combine(lanes[l], element(i + l));
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] = combine(lanes[l], lanes[l + half]);
  return lanes[0];
}

template <class T, class Element>
inline T lane_sum(std::int64_t n, Element element) {
  return lane_reduce(
      n, T{0}, [](T a, T b) { return a + b; }, element);
}

// -inf for n = 0; passes over NaN.
template <class T>
inline T lane_max(const T* x, std::int64_t n) {
  return lane_reduce(
      n, -std::numeric_limits<T>::infinity(), [](T a, T b) { return b > a ? b : a; },
      [x](std::int64_t i) { return x[i]; });
}

// Sums of width `width` over all rows: add_rows(begin, end, partial) adds its rows to a partial sum that
// starts at zero, in parallel; the partial sums are then added in order into `result`. At most 64 blocks of
// rows, each of at least 16k elements.
template <class T, class F>
void sum_over_rows(std::int64_t rows, std::int64_t width, T* result, F&& add_rows) {
  constexpr std::int64_t kMaxBlocks = 64, kBlockElements = 1 << 14;
  const std::int64_t wanted = std::clamp<std::int64_t>(rows * width / kBlockElements, 1, kMaxBlocks);
  const std::int64_t block_rows = std::max<std::int64_t>(1, (rows + wanted - 1) / wanted);
  const std::int64_t blocks = (rows + block_rows - 1) / block_rows;
  std::vector<T> partial(blocks * width);
  parallel_for(rows, block_rows, [&](std::int64_t begin, std::int64_t end) {
    add_rows(begin, end, partial.data() + begin / block_rows * width);
  });
  std::fill_n(result, width, T{0});
  for (std::int64_t b = 0; b < blocks; ++b)
    for (std::int64_t c = 0; c < width; ++c) result[c] += partial[b * width + c];
}

}  // namespace filigree::cpu
