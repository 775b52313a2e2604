// How matrix products on the CPU are cut, and the memory that they take beside their operands.
#pragma once

#include <cstdint>

namespace filigree::cpu {

// How C [m, n] and k are cut into tasks, from the shape alone.
struct GemmPlan {
  std::int64_t block_m, block_n, block_k;
  std::int64_t blocks_m = 1, blocks_n = 1, slices;

  GemmPlan(std::int64_t m, std::int64_t n, std::int64_t k);
  // Elements that gemm and gemm_bias take from the CPU's allocator: each slice but the first has a C of its
  // own.
  std::int64_t partial_sums(std::int64_t m, std::int64_t n) const { return (slices - 1) * m * n; }
};

// Batches of fewer products are computed by gemm, one after the other; of more, each by one gemm_serial.
inline constexpr std::int64_t kSmallBatch = 8;
// Linear layers of at most as many rows are computed by linear_few_rows.
inline constexpr std::int64_t kFewRows = 8;

// Bytes that packing buffers leave as holes in the heap of every thread that computes products with
// `elements` elements of A, B or C. Measured with oneDNN 2.6: its AVX2 code allocates 0.5 to 2 MiB per call,
// its AVX-512 code hardly anything.
std::int64_t gemm_heap_holes(std::int64_t elements);

}  // namespace filigree::cpu
