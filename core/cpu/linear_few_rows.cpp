// Few rows times a large matrix, as decoding needs them: dot products along the rows of w.
#include <algorithm>

#include "core/cpu/gemm.h"
#include "core/parallel.h"

namespace filigree::cpu {
namespace {

constexpr std::int64_t kOutputs = 4;  // at once, to hide the latency of the sums

// y[r * out + o] for kRows rows and the outputs [first, min(first + kOutputs, out)).
template <class T, int kRows>
void dot_products(std::int64_t in, std::int64_t out, std::int64_t first, const T* x, const T* w,
                  const T* bias, T* y) {
  const T* rows[kOutputs];  // beyond the last output: the last one again
  for (std::int64_t o = 0; o < kOutputs; ++o) rows[o] = w + std::min(first + o, out - 1) * in;
  const T *w0 = rows[0], *w1 = rows[1], *w2 = rows[2], *w3 = rows[3], *x0 = x, *x1 = x + (kRows - 1) * in;
  T a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
#pragma omp simd reduction(+ : a0, a1, a2, a3, b0, b1, b2, b3)
  for (std::int64_t i = 0; i < in; ++i) {
    a0 += w0[i] * x0[i];
    a1 += w1[i] * x0[i];
    a2 += w2[i] * x0[i];
    a3 += w3[i] * x0[i];
    if constexpr (kRows == 2) {
      b0 += w0[i] * x1[i];
      b1 += w1[i] * x1[i];
      b2 += w2[i] * x1[i];
      b3 += w3[i] * x1[i];
    }
  }
  const T sums[2][kOutputs] = {{a0, a1, a2, a3}, {b0, b1, b2, b3}};
  for (int r = 0; r < kRows; ++r)
    for (std::int64_t o = 0; o < std::min(kOutputs, out - first); ++o)
      y[r * out + first + o] = sums[r][o] + (bias ? bias[first + o] : T(0));
}

}  // namespace

template <class T>
void linear_few_rows(std::int64_t rows, std::int64_t in, std::int64_t out, const T* x, const T* w,
                     const T* bias, T* y) {
  constexpr std::int64_t kTaskElements = 1 << 18;  // of w: about 20 microseconds
  const std::int64_t blocks = (out + kOutputs - 1) / kOutputs;
  const std::int64_t grain =
      std::max<std::int64_t>(1, kTaskElements / std::max<std::int64_t>(1, kOutputs * in));
  parallel_for(blocks, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      std::int64_t r = 0;
      for (; r + 2 <= rows; r += 2)
        dot_products<T, 2>(in, out, block * kOutputs, x + r * in, w, bias, y + r * out);
      if (r < rows) dot_products<T, 1>(in, out, block * kOutputs, x + r * in, w, bias, y + r * out);
    }
  });
}

template void linear_few_rows(std::int64_t, std::int64_t, std::int64_t, const float*, const float*,
                              const float*, float*);
template void linear_few_rows(std::int64_t, std::int64_t, std::int64_t, const double*, const double*,
                              const double*, double*);

}  // namespace filigree::cpu
