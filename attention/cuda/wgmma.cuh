// Matrix products of a warpgroup, four warps in a row, on Hopper's tensor cores: PTX wgmma, compute
// capability 9.0 alone (sm_90a). They run beside the warps that start them; until wait_for_products() has
// seen to it, the accumulators belong to the tensor cores, and what they read may not be changed.
//
// An accumulator is a Fragment: warp w of the group has rows 16 w to 16 w + 15 of 64. A left operand in
// registers is likewise. Operands in shared memory are matrices [rows, D] of bf16 in panels of 64 columns,
// [D / 64][rows][64]: a row of a panel is 128 bytes, whose 16-byte unit u lies at unit u ^ (row % 8)
// ("128-byte swizzle"), and a panel begins at a multiple of 1024 bytes.
#pragma once

#include "attention/cuda/fragment.cuh"
#include "attention/cuda/tensor_map.h"

namespace filigree::cuda {

inline constexpr int kWarpgroup = 4 * kWarpSize;
inline constexpr int kGroupRows = 64;  // of a warpgroup's product
inline constexpr int kPanelColumns = 64, kPanelRowBytes = 128;

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
template <int columns>
__device__ inline void pin(Fragment<columns>& c) {
  c.for_each([](float& e, int, int) { asm volatile("" : "+f"(e)::"memory"); });
}

// --- operands in shared memory (PTX: matrix descriptors) ---

// A panel of 64 columns from row `address` on, a multiple of 8. As rows, the operand's rows are the matrix's
// and a product takes 16 columns; as columns, they are the matrix's columns and a product takes 16 rows.
// `panel_bytes` from panel to panel, where an operand as columns has more than 64.
__device__ inline std::uint64_t operand(std::uint32_t address, std::uint32_t panel_bytes = 16) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62, kEightRows = std::uint64_t{1024 / 16} << 32;
  return kSwizzle128 | kEightRows | std::uint64_t{panel_bytes / 16} << 16 | address / 16;
}
inline constexpr std::uint64_t kSixteenColumns = 32 / 16;  // added to an operand as rows: the next 16 columns
inline constexpr std::uint64_t kSixteenRows = 16 * kPanelRowBytes / 16;  // as columns: the next 16 rows

// The place of 16-byte unit `unit` of a row, in panels `panel_bytes` apart.
__device__ inline std::uint32_t unit_offset(int row, int unit, std::uint32_t panel_bytes) {
  return static_cast<std::uint32_t>(unit / 8) * panel_bytes +
         static_cast<std::uint32_t>(row * kPanelRowBytes + (unit % 8 ^ row % 8) * 16);
}

// --- products: c (+)= a b of 16 columns of a. Rows or columns: how an operand in shared memory is read ---

constexpr int kRows = 0, kColumns = 1;

#define FILIGREE_C4(n)                                                                     \
  "+f"(c.x[n][0]), "+f"(c.x[n][1]), "+f"(c.x[n][2]), "+f"(c.x[n][3]), "+f"(c.x[n + 1][0]), \
      "+f"(c.x[n + 1][1]), "+f"(c.x[n + 1][2]), "+f"(c.x[n + 1][3])
#define FILIGREE_C64 FILIGREE_C4(0), FILIGREE_C4(2), FILIGREE_C4(4), FILIGREE_C4(6)
#define FILIGREE_C128 FILIGREE_C64, FILIGREE_C4(8), FILIGREE_C4(10), FILIGREE_C4(12), FILIGREE_C4(14)
#define FILIGREE_NAMES32                                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FILIGREE_NAMES64                                                                         \
  FILIGREE_NAMES32                                                                               \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FILIGREE_WGMMA(shape, names, operands)                                         \
  "{.reg .pred add; setp.ne.b32 add, " operands " wgmma.mma_async.sync.aligned." shape \
  ".f32.bf16.bf16 {" names "}, "

// a in registers, b [16, columns of c] read as given.
template <int read_b>
__device__ inline void product(Fragment<64>& c, const std::uint32_t (&a)[4], std::uint64_t b, int add) {
  asm volatile(
      FILIGREE_WGMMA("m64n64k16", FILIGREE_NAMES32, "%37, 0;") "{%32, %33, %34, %35}, %36, add, 1, 1, %38;}\n"
      : FILIGREE_C64
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(read_b)
      : "memory");
}
template <int read_b>
__device__ inline void product(Fragment<128>& c, const std::uint32_t (&a)[4], std::uint64_t b, int add) {
  asm volatile(FILIGREE_WGMMA("m64n128k16", FILIGREE_NAMES64,
                              "%69, 0;") "{%64, %65, %66, %67}, %68, add, 1, 1, %70;}\n"
               : FILIGREE_C128
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(read_b)
               : "memory");
}
// Both in shared memory.
template <int read_a, int read_b>
__device__ inline void product(Fragment<64>& c, std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(FILIGREE_WGMMA("m64n64k16", FILIGREE_NAMES32, "%34, 0;") "%32, %33, add, 1, 1, %35, %36;}\n"
               : FILIGREE_C64
               : "l"(a), "l"(b), "r"(add), "n"(read_a), "n"(read_b)
               : "memory");
}
template <int read_a, int read_b>
__device__ inline void product(Fragment<128>& c, std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(FILIGREE_WGMMA("m64n128k16", FILIGREE_NAMES64, "%66, 0;") "%64, %65, add, 1, 1, %67, %68;}\n"
               : FILIGREE_C128
               : "l"(a), "l"(b), "r"(add), "n"(read_a), "n"(read_b)
               : "memory");
}

// c = a b^T over all D columns, both as rows, panels `a_panel` and `b_panel` bytes apart. c has as many
// columns as b is to have rows.
template <int D, int columns>
__device__ inline void multiply_rows(Fragment<columns>& c, std::uint32_t a, std::uint32_t a_panel,
                                     std::uint32_t b, std::uint32_t b_panel) {
  const std::uint64_t first_a = operand(a), first_b = operand(b);
#pragma unroll
  for (int d = 0; d < D / 16; ++d) {
    const auto panel = static_cast<std::uint64_t>(d / 4), part = static_cast<std::uint64_t>(d % 4);
    product<kRows, kRows>(c, first_a + panel * (a_panel / 16) + part * kSixteenColumns,
                          first_b + panel * (b_panel / 16) + part * kSixteenColumns, d > 0);
  }
}

// c += a b: a in registers, b [rows, columns of c] as columns.
template <int columns, int rows>
__device__ inline void add_products(Fragment<columns>& c, const Rounded<rows>& a, std::uint32_t b,
                                    std::uint32_t b_panel) {
  const std::uint64_t first = operand(b, b_panel);
#pragma unroll
  for (int k = 0; k < rows / 16; ++k)
    product<kColumns>(c, a.x[k], first + static_cast<std::uint64_t>(k) * kSixteenRows, 1);
}

// --- results ---

// The warp's 16 rows of c and 64 columns from 16 `from` on, as columns of a matrix [64, 64] in shared memory:
// element (i, j) goes to row j, column first + i.
template <int columns>
__device__ inline void store_transposed(const Rounded<columns>& c, int from, std::uint32_t matrix,
                                        int first) {
  const int row = lane_id() % 8 + lane_id() / 16 * 8, unit = first / 8 + lane_id() / 8 % 2;
#pragma unroll
  for (int k = 0; k < 4; ++k)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     matrix + unit_offset(16 * k + row, unit, 0)),
                 "r"(c.x[from + k][0]), "r"(c.x[from + k][1]), "r"(c.x[from + k][2]), "r"(c.x[from + k][3])
                 : "memory");
}

// The warp's 16 rows of c, rounded, by way of its rows from `first` on of a matrix in shared
// memory: write(row of the matrix, unit, the 16 bytes of it). No product may still read those rows.
template <int columns, class Write>
__device__ inline void write_rounded(Fragment<columns>& c, std::uint32_t matrix, std::uint32_t panel_bytes,
                                     int first, Write&& write) {
  constexpr int kUnits = columns / 8;
  const int row = first + c.row();
  const auto bytes = static_cast<std::uint32_t>(c.column() * 2);
  __syncwarp();  // every lane has read what it needs of those rows
#pragma unroll
  for (int d = 0; d < kUnits; ++d)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(matrix + unit_offset(row + 8 * i, d, panel_bytes) + bytes),
                   "r"(pack_bf16(c.x[d][2 * i], c.x[d][2 * i + 1]))
                   : "memory");
  __syncwarp();
#pragma unroll 4
  for (int i = lane_id(); i < 16 * kUnits; i += kWarpSize) {
    uint4 x;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(matrix + unit_offset(first + i / kUnits, i % kUnits, panel_bytes))
                 : "memory");
    write(first + i / kUnits, i % kUnits, x);
  }
}

// --- synchronisation ---

// A barrier in shared memory that is passed when its threads have arrived and what was announced has been
// copied. Its passes have the parities 0, 1, 0, ..; waiting for parity 1 passes at once before the first.
struct Barrier {
  alignas(8) std::uint64_t state;

  __device__ std::uint32_t address() { return shared_address(&state); }
  // By one thread, before publish_barriers() and a barrier of the CTA.
  __device__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory");
  }
  // Arrives and announces so many bytes.
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

// A place in a ring of `slots` stages.
template <int slots>
struct RingPlace {
  int passed = 0;

  __device__ int slot() const { return passed % slots; }
  __device__ int parity() const { return passed / slots & 1; }
};

// Named barrier `id`, from 1 on, of so many threads.
__device__ inline void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Between ordinary accesses to shared memory and the tensor cores' or copies' to the same.
__device__ inline void fence_proxies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// How many registers a thread of the warpgroup has from here on.
template <int n>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

// --- copies into panels, by the tensor memory accelerator ---

// By one thread: 64 rows of the map from `row` on, D columns from `column` on, into panels at `to`.
template <int D>
__device__ inline void copy_to_panels(const CUtensorMap& map, int column, int row, int sequence,
                                      std::uint32_t to, std::uint32_t panel_bytes, Barrier& barrier) {
#pragma unroll
  for (int panel = 0; panel < D / kPanelColumns; ++panel)
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
        "%3, %4}], [%5];" ::"r"(to + static_cast<std::uint32_t>(panel) * panel_bytes),
        "l"(&map), "r"(column + panel * kPanelColumns), "r"(row), "r"(sequence), "r"(barrier.address())
        : "memory");
}

// `bytes`, a multiple of 16, from global to shared memory.
__device__ inline void copy_bytes(std::uint32_t to, const void* from, int bytes, Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier.address())
      : "memory");
}
// From shared to global memory: sets, or adds f32.
__device__ inline void copy_out(float* to, std::uint32_t from, int bytes, bool add) {
  if (add)
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
                 "r"(from), "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
                 "r"(bytes)
                 : "memory");
}
__device__ inline void commit_copies_out() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// For the calling thread's: that they have been read, or that all is written.
__device__ inline void wait_until_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
__device__ inline void wait_until_written() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

}  // namespace filigree::cuda
