#include "core/cpu/gemm_plan.h"

#include <dnnl.h>

#include <algorithm>

namespace filigree::cpu {

using std::int64_t;

namespace {

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

// Measured on Zen 3: blocks of C of 512 x 768 and more run at about the rate of the whole matrix; of smaller
// ones oneDNN chooses a slower method or spends up to a third on packing A and B. Slices of k from 256 on
// cost 5 %, so they come before small blocks.
GemmPlan::GemmPlan(int64_t m, int64_t n, int64_t k) {
  constexpr int64_t kTasks = 8, kFewTasks = 4, kSmallestSlice = 256;
  constexpr int64_t kEfficientArea = 384 * 1024, kSmallestArea = 128 * 192;
  const int64_t most_slices = std::clamp<int64_t>(k / kSmallestSlice, 1, kTasks);
  for (;;) {
    block_m = std::min(m, divide_up(divide_up(m, blocks_m), 8) * 8);
    block_n = std::min(n, divide_up(divide_up(n, blocks_n), 16) * 16);
    const int64_t half = block_m * block_n / 2, blocks = blocks_m * blocks_n;
    const bool halve = half >= 2 * kEfficientArea || (half >= kEfficientArea && blocks < kTasks) ||
                       (half >= kSmallestArea && blocks * most_slices < kFewTasks);
    if (!halve) break;
    (block_m >= block_n ? blocks_m : blocks_n) *= 2;
  }
  blocks_m = divide_up(m, block_m);
  blocks_n = divide_up(n, block_n);
  slices = std::clamp<int64_t>(kTasks / (blocks_m * blocks_n), 1, most_slices);
  block_k = divide_up(k, slices);
  slices = divide_up(k, block_k);
}

int64_t gemm_heap_holes(int64_t elements) {
  const bool avx512 = (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
  constexpr int64_t kPacked = int64_t{1} << 20, kHoles = int64_t{8} << 20;
  return !avx512 && elements >= kPacked ? kHoles : 0;
}

}  // namespace filigree::cpu
