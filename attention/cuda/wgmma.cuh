// Matrix products of a warpgroup, four warps in a row, on Hopper's tensor cores: PTX wgmma, compute
// capability 9.0 alone (sm_90a). They run beside the warps that start them; until wait_for_products() has
// seen to it, the accumulators belong to the tensor cores, and what they read may not be changed.
//
// An accumulator [64, 8 n] is c[n][4]: warp w of the group has rows 16 w to 16 w + 15, spread over it as C of
// mma.cuh. A left operand in registers is A of mma.cuh, likewise. Operands in shared memory are matrices
// [rows, D] of bf16 in panels of 64 columns, [D / 64][rows][64]: a row of a panel is 128 bytes, whose 16-byte
// unit u lies at unit u ^ (row % 8) ("128-byte swizzle"), and a panel begins at a multiple of 1024 bytes.
#pragma once

#include "attention/cuda/mma.cuh"
#include "attention/cuda/tensor_map.h"

namespace filigree::cuda {

inline constexpr int kWarpgroup = 4 * kWarpSize;
inline constexpr int kPanelColumns = 64, kPanelRowBytes = 128;

// Of an attention kernel, for its launch bounds: they leave a thread 255 registers, and 168 at D = 64, so
// that three warpgroups fit a multiprocessor.
template <int D>
inline constexpr int kThreadsAtOnce = D == 64 ? 384 : 256;

// Before the first product, and after other code wrote accumulators or operands in registers.
__device__ inline void fence_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Products since the last commit are a group. Waiting leaves the newest `pending` groups under way.
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int pending>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
// Keeps the compiler from moving copies of accumulators across: to be called on each after it was waited for.
template <int n>
__device__ inline void pin(float (&c)[n][4]) {
#pragma unroll
  for (int i = 0; i < n; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+f"(c[i][j])::"memory");
}
// --- operands in shared memory (PTX: matrix descriptors) ---

// Of a panel of 64 columns and its rows from `address` on, whose number is a multiple of 8.
//   as rows:    the operand's rows are the matrix's, of which a product takes 16 columns;
//   as columns: they are the matrix's columns, of which a product takes 16 rows. `panel_bytes` from panel to
//               panel, where there are more columns than 64.
__device__ inline std::uint64_t operand(std::uint32_t address, std::uint32_t panel_bytes = 16) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62, kEightRows = std::uint64_t{1024 / 16} << 32;
  return kSwizzle128 | kEightRows | std::uint64_t{panel_bytes / 16} << 16 | address / 16;
}
// All of them have the same upper half. Products are given the lower one alone: then what is added to it is
// computed in the uniform registers that products read, where sums of 64 bits took four instructions and two
// moves between two products.
inline constexpr std::uint32_t kUpperHalf = 0x40000040;
inline constexpr std::uint64_t kSixteenColumns = 32 / 16;  // added to an operand as rows: the next 16 columns
inline constexpr std::uint64_t kSixteenRows = 16 * kPanelRowBytes / 16;  // as columns: the next 16 rows

// The place of 16-byte unit `unit` of a row, in panels `panel_bytes` apart.
__device__ inline std::uint32_t unit_offset(int row, int unit, std::uint32_t panel_bytes) {
  return static_cast<std::uint32_t>(unit / 8) * panel_bytes +
         static_cast<std::uint32_t>(row * kPanelRowBytes + (unit % 8 ^ row % 8) * 16);
}

// --- products ---

// c = a b^T, or c += a b^T: a [64, 16] and b [64, 16], both as rows.
template <bool kAdd>
__device__ inline void product_of_rows(float (&c)[8][4], std::uint32_t a, std::uint32_t b) {
  asm volatile(
      "{.reg .pred add; .reg .b64 a, b; setp.ne.b32 add, %34, 0;\n"
      "mov.b64 a, {%32, %35}; mov.b64 b, {%33, %35};\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "a, b, add, 1, 1, 0, 0;}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
        "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
        "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
        "+f"(c[7][2]), "+f"(c[7][3])
      : "r"(a), "r"(b), "n"(kAdd ? 1 : 0), "n"(kUpperHalf)
      : "memory");
}

// The same with a in registers.
template <bool kAdd>
__device__ inline void product_of_rows(float (&c)[8][4], const std::uint32_t (&a)[4], std::uint32_t b) {
  asm volatile(
      "{.reg .pred add; .reg .b64 b; setp.ne.b32 add, %37, 0; mov.b64 b, {%36, %38};\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, b, add, 1, 1, 0;}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
        "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
        "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
        "+f"(c[7][2]), "+f"(c[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(kAdd ? 1 : 0), "n"(kUpperHalf)
      : "memory");
}

// b [128, 16], a in shared memory.
template <bool kAdd>
__device__ inline void product_of_rows(float (&c)[16][4], std::uint32_t a, std::uint32_t b) {
  asm volatile(
      "{.reg .pred add; .reg .b64 a, b; setp.ne.b32 add, %66, 0;\n"
      "mov.b64 a, {%64, %67}; mov.b64 b, {%65, %67};\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "a, b, add, 1, 1, 0, 0;}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
        "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
        "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
        "+f"(c[7][2]), "+f"(c[7][3]), "+f"(c[8][0]), "+f"(c[8][1]), "+f"(c[8][2]), "+f"(c[8][3]),
        "+f"(c[9][0]), "+f"(c[9][1]), "+f"(c[9][2]), "+f"(c[9][3]), "+f"(c[10][0]), "+f"(c[10][1]),
        "+f"(c[10][2]), "+f"(c[10][3]), "+f"(c[11][0]), "+f"(c[11][1]), "+f"(c[11][2]), "+f"(c[11][3]),
        "+f"(c[12][0]), "+f"(c[12][1]), "+f"(c[12][2]), "+f"(c[12][3]), "+f"(c[13][0]), "+f"(c[13][1]),
        "+f"(c[13][2]), "+f"(c[13][3]), "+f"(c[14][0]), "+f"(c[14][1]), "+f"(c[14][2]), "+f"(c[14][3]),
        "+f"(c[15][0]), "+f"(c[15][1]), "+f"(c[15][2]), "+f"(c[15][3])
      : "r"(a), "r"(b), "n"(kAdd ? 1 : 0), "n"(kUpperHalf)
      : "memory");
}

// c += a b: a [64, 16] in registers, b [16, 64] as columns.
__device__ inline void add_product(float (&c)[8][4], const std::uint32_t (&a)[4], std::uint32_t b) {
  asm volatile(
      "{.reg .pred add; .reg .b64 b; setp.ne.b32 add, 1, 0; mov.b64 b, {%36, %37};\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, b, add, 1, 1, 1;}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
        "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
        "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
        "+f"(c[7][2]), "+f"(c[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(kUpperHalf)
      : "memory");
}

// b [16, 128] as columns.
__device__ inline void add_product(float (&c)[16][4], const std::uint32_t (&a)[4], std::uint32_t b) {
  asm volatile(
      "{.reg .pred add; .reg .b64 b; setp.ne.b32 add, 1, 0; mov.b64 b, {%68, %69};\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, b, add, 1, 1, 1;}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
        "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
        "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
        "+f"(c[7][2]), "+f"(c[7][3]), "+f"(c[8][0]), "+f"(c[8][1]), "+f"(c[8][2]), "+f"(c[8][3]),
        "+f"(c[9][0]), "+f"(c[9][1]), "+f"(c[9][2]), "+f"(c[9][3]), "+f"(c[10][0]), "+f"(c[10][1]),
        "+f"(c[10][2]), "+f"(c[10][3]), "+f"(c[11][0]), "+f"(c[11][1]), "+f"(c[11][2]), "+f"(c[11][3]),
        "+f"(c[12][0]), "+f"(c[12][1]), "+f"(c[12][2]), "+f"(c[12][3]), "+f"(c[13][0]), "+f"(c[13][1]),
        "+f"(c[13][2]), "+f"(c[13][3]), "+f"(c[14][0]), "+f"(c[14][1]), "+f"(c[14][2]), "+f"(c[14][3]),
        "+f"(c[15][0]), "+f"(c[15][1]), "+f"(c[15][2]), "+f"(c[15][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(kUpperHalf)
      : "memory");
}

// a [64, 16] in shared memory, as rows.
__device__ inline void add_product(float (&c)[16][4], std::uint32_t a, std::uint32_t b) {
  asm volatile(
      "{.reg .pred add; .reg .b64 a, b; setp.ne.b32 add, 1, 0;\n"
      "mov.b64 a, {%64, %66}; mov.b64 b, {%65, %66};\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63}, "
      "a, b, add, 1, 1, 0, 1;}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
        "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
        "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
        "+f"(c[7][2]), "+f"(c[7][3]), "+f"(c[8][0]), "+f"(c[8][1]), "+f"(c[8][2]), "+f"(c[8][3]),
        "+f"(c[9][0]), "+f"(c[9][1]), "+f"(c[9][2]), "+f"(c[9][3]), "+f"(c[10][0]), "+f"(c[10][1]),
        "+f"(c[10][2]), "+f"(c[10][3]), "+f"(c[11][0]), "+f"(c[11][1]), "+f"(c[11][2]), "+f"(c[11][3]),
        "+f"(c[12][0]), "+f"(c[12][1]), "+f"(c[12][2]), "+f"(c[12][3]), "+f"(c[13][0]), "+f"(c[13][1]),
        "+f"(c[13][2]), "+f"(c[13][3]), "+f"(c[14][0]), "+f"(c[14][1]), "+f"(c[14][2]), "+f"(c[14][3]),
        "+f"(c[15][0]), "+f"(c[15][1]), "+f"(c[15][2]), "+f"(c[15][3])
      : "r"(a), "r"(b), "n"(kUpperHalf)
      : "memory");
}

// c = a b^T over all D columns: a [64, D] and b [8 n, D] as rows, panels `a_panel` and `b_panel` bytes apart.
template <int D, int n>
__device__ inline void multiply_rows(float (&c)[n][4], std::uint64_t a, std::uint32_t a_panel,
                                     std::uint64_t b, std::uint32_t b_panel) {
#pragma unroll
  for (int d = 0; d < D / 16; ++d) {
    const std::uint64_t panel = static_cast<std::uint64_t>(d / 4), part = static_cast<std::uint64_t>(d % 4);
    const auto at_a = static_cast<std::uint32_t>(a + panel * (a_panel / 16) + part * kSixteenColumns);
    const auto at_b = static_cast<std::uint32_t>(b + panel * (b_panel / 16) + part * kSixteenColumns);
    if (d == 0)
      product_of_rows<false>(c, at_a, at_b);
    else
      product_of_rows<true>(c, at_a, at_b);
  }
}

// c += a b: a [64, 16 m] in registers, b [16 m, 8 n] as columns.
template <int n, int m>
__device__ inline void add_products(float (&c)[n][4], const std::uint32_t (&a)[m][4], std::uint64_t b) {
#pragma unroll
  for (int k = 0; k < m; ++k) add_product(c, a[k], static_cast<std::uint32_t>(b + k * kSixteenRows));
}

// c [64, 16 m], rounded, as a left operand.
template <int m>
__device__ inline void round_to_operand(const float (&c)[2 * m][4], std::uint32_t (&a)[m][4]) {
#pragma unroll
  for (int k = 0; k < m; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[k][i] = pack_bf16(c[2 * k + i / 2][i % 2 * 2], c[2 * k + i / 2][i % 2 * 2 + 1]);
}

// --- results ---

// The warp's 16 rows of c [64, 8 n] times `factor`, rounded, by way of its rows from `first` on of a matrix
// in shared memory: write(row of the matrix, unit, the 16 bytes of it). No product may still read those rows.
template <int n, class Write>
__device__ inline void write_rounded(const float (&c)[n][4], float factor, std::uint32_t matrix,
                                     std::uint32_t panel_bytes, int first, Write&& write) {
  const int row = first + lane_id() / 4;
  const std::uint32_t bytes = static_cast<std::uint32_t>(lane_id() % 4 * 4);
  __syncwarp();  // every lane has read what it needs of those rows
#pragma unroll
  for (int d = 0; d < n; ++d)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(matrix + unit_offset(row + 8 * i, d, panel_bytes) + bytes),
                   "r"(pack_bf16(factor * c[d][2 * i], factor * c[d][2 * i + 1]))
                   : "memory");
  __syncwarp();
#pragma unroll 4
  for (int i = lane_id(); i < 16 * n; i += kWarpSize) {
    uint4 x;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(matrix + unit_offset(first + i / n, i % n, panel_bytes))
                 : "memory");
    write(first + i / n, i % n, x);
  }
}

// --- copies into panels, by the tensor memory accelerator ---

// A barrier in shared memory. It is passed when so many have arrived as init() says and the bytes have been
// copied that arm(), which arrives too, announced. Its passes have the parities 0, 1, 0, ..
struct CopyBarrier {
  alignas(8) std::uint64_t state;

  __device__ std::uint32_t address() { return shared_address(&state); }
  // By one thread, before publish_barriers() and a barrier of the CTA.
  __device__ void init(int arrivals = 1) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory");
  }
  __device__ void arm(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes)
                 : "memory");
  }
  __device__ void wait(int parity) {
    asm volatile(
        "{.reg .pred passed;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 passed, [%0], %1;\n"
        "@!passed bra again;}\n" ::"r"(address()),
        "r"(parity)
        : "memory");
  }
};
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Between a thread's own reads or writes of shared memory and a copy into it that follows.
__device__ inline void fence_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- warps with different tasks ---

// Barriers of the hardware, number 0 is that of __syncthreads(): passed when `threads` threads have arrived.
__device__ inline void named_sync(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ inline void named_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
// A warpgroup gives registers back or takes them, and has n for each thread from then on.
template <int n>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

// By one thread: the map's rows from `row` on of D columns from `column` on, into panels at `to`.
template <int D>
__device__ inline void copy_to_panels(const CUtensorMap& map, int column, int row, int sequence,
                                      std::uint32_t to, std::uint32_t panel_bytes, CopyBarrier& barrier) {
#pragma unroll
  for (int panel = 0; panel < D / kPanelColumns; ++panel)
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
        "%3, "
        "%4}], [%5];" ::"r"(to + static_cast<std::uint32_t>(panel) * panel_bytes),
        "l"(&map), "r"(column + panel * kPanelColumns), "r"(row), "r"(sequence), "r"(barrier.address())
        : "memory");
}

// By one thread: so many bytes, a multiple of 16 from and to multiples of 16.
__device__ inline void copy_bytes(const void* from, int bytes, std::uint32_t to, CopyBarrier& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier.address())
      : "memory");
}

}  // namespace filigree::cuda
