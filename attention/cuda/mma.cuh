// What the bf16 attention kernels are made of: matrix products of a warp on tensor cores, loads of their
// operands from shared memory, and asynchronous copies into it. PTX of compute capability 8.0 and later.
//
// multiply_add() is C += A B with A [16 x 16], B [16 x 8], C [16 x 8] spread over a warp. With g = lane / 4
// and t = lane % 4, a lane holds
//   A: a[0] row g, a[1] row g + 8, columns 2t and 2t + 1; a[2], a[3] the same rows, columns 2t + 8 and 2t + 9
//   B: b0 rows 2t and 2t + 1, b1 rows 2t + 8 and 2t + 9 of column g
//   C: c[0], c[1] row g, columns 2t and 2t + 1; c[2], c[3] row g + 8
// two bf16 to a register, the first in its lower half. So the C of two neighbouring products, rounded, is an
// A: a = {pack_bf16(c0[0], c0[1]), pack_bf16(c0[2], c0[3]), pack_bf16(c1[0], c1[1]), pack_bf16(c1[2],
// c1[3])}.
#pragma once

#include <cstdint>

#include "core/cuda/cuda.h"

namespace filigree::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ inline int lane_id() {
  return static_cast<int>(threadIdx.x % kWarpSize);
}
__device__ inline int warp_id() {
  return static_cast<int>(threadIdx.x / kWarpSize);
}

// `x` of lane 0: tells the compiler that the whole warp has the same.
__device__ inline int warp_uniform(int x) {
  return __shfl_sync(kWholeWarp, x, 0);
}

// --- arithmetic ---

__device__ inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c = A B
__device__ inline void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %10, %10, %10};"
      : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

// Rounded to nearest even; `low` in the lower half.
__device__ inline std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// 2^x to 2 ulp; 0 below 2^-126; NaN stays NaN. One instruction where exp2f() takes four.
__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The lowest n bits, none for n <= 0 and all for n >= 32.
__device__ inline std::uint32_t low_bits(int n) {
  return n <= 0 ? 0u : n >= 32 ? ~0u : (1u << n) - 1u;
}

// --- shared memory ---

// Elements from row to row of a matrix [rows, D] in shared memory, D a multiple of 16: an odd number of
// 16-byte units, so that the 8 rows which a load reads at once lie in different banks.
template <int D>
inline constexpr int kRowStride = D + 8;

__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

// The four 8 x 8 matrices whose rows (of 16 bytes) lanes 0-7, 8-15, 16-23 and 24-31 point to. r[i] holds row
// g, columns 2t and 2t + 1 of matrix i; transposed: rows 2t and 2t + 1 of column g.
__device__ inline void load_matrices(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// Where a lane points within a 16 x 16 block of a matrix with rows `stride` apart, in elements.
//   across: load_matrices() gives A of a block [m][k]; transposed, of a block [k][n], {b0, b1} of columns
//   0-7,
//           then of columns 8-15;
//   down:   load_matrices() gives of a block [n][k] {b0, b1} of columns n = 0-7, then of 8-15; transposed, A
//   of a
//           block [k][m].
__device__ inline int block_offset_across(int stride) {
  return lane_id() % 16 * stride + lane_id() / 16 * 8;
}
__device__ inline int block_offset_down(int stride) {
  return (lane_id() % 8 + lane_id() / 16 * 8) * stride + lane_id() / 8 % 2 * 8;
}

// --- asynchronous copies from global to shared memory ---

// 16 bytes; zeros, and nothing is read, if not `valid`.
__device__ inline void copy_async_16(std::uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void copy_async_4(std::uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}

// Copies since the last commit are a group. Waiting leaves the calling thread's newest `pending` groups under
// way, and whatever is not committed; what others copied is there only after a barrier too.
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
// For all of the calling thread's, committed or not.
__device__ inline void wait_for_all_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// How a warp shares out rows of D elements in units of 16 bytes: kRowLanes lanes side by side have a row,
// each every kRowLanes-th unit of it, and the warp has kRowsAtOnce rows.
template <int D>
inline constexpr int kRowLanes = D == 32 ? 4 : 8;
template <int D>
inline constexpr int kRowsAtOnce = kWarpSize / kRowLanes<D>;

// Calls f with the offset in bytes from the lane's first unit of a row to each of its units.
template <int D, class F>
__device__ inline void for_each_unit(F&& f) {
#pragma unroll
  for (int unit = 0; unit < D / 8; unit += kRowLanes<D>)
    if (unit + kRowLanes<D> <= D / 8 || unit + lane_id() % kRowLanes<D> < D / 8) f(unit * 16);
}

// Rows [0, rows) of D elements, `stride_bytes` apart, to rows kRowStride<D> apart; zeros from row `valid` on.
// Shared among `warps` warps, of which the caller is number `warp`.
template <int D>
__device__ inline void copy_rows(const void* from, std::int64_t stride_bytes, int rows, int valid,
                                 std::uint32_t to, int warp, int warps) {
  const int first = warp * kRowsAtOnce<D> + lane_id() / kRowLanes<D>, unit = lane_id() % kRowLanes<D>;
  const char* source = static_cast<const char*>(from) + first * stride_bytes + unit * 16;
  to += static_cast<std::uint32_t>(first * kRowStride<D> * 2 + unit * 16);
#pragma unroll 1
  for (int row = first; row < rows; row += warps * kRowsAtOnce<D>) {
    for_each_unit<D>([&](int offset) {
      copy_async_16(to + static_cast<std::uint32_t>(offset), source + offset, row < valid);
    });
    source += warps * kRowsAtOnce<D> * stride_bytes;
    to += static_cast<std::uint32_t>(warps * kRowsAtOnce<D> * kRowStride<D> * 2);
  }
}

}  // namespace filigree::cuda
