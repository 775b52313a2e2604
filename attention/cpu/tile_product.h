// The matrix products of attention, on tiles that lie in cache.
//
// Why not oneDNN's sgemm: at these sizes its time goes into copying the operands into its own order and into
// the call. Here every operand is brought into one order once, and all five products of attention read it
// there.
//
// That order, "panels": a matrix of R rows and C columns is stored as [C / L][R][L], L = kLine<T> elements
// (one cache line), both padded with zeros to multiples of L. A panel serves as the right operand (a line is
// a load), as the left one (elements are broadcast), as the left one transposed, and as the result.
#pragma once

#include <utility>

#include "attention/cpu/simd.h"

namespace filigree::cpu {

// The way in which a product changes its result.
enum class Update { assign, add, scale_add };  // C = AB, C += AB, C = diag(row_scale) C + AB

// Left operand, m x k. Plain: panels of the m x k matrix, `stride` elements from panel to panel. Transposed:
// panels of the k x m matrix.
template <class T>
struct Left {
  const T* data;
  std::int64_t stride;
};

// Right operand, k x n: panels of n, cut along k into `pieces` parts of `chunks` lines each (the key tiles of
// a strip); part i starts at data[i], `stride` elements from panel to panel.
template <class T>
struct Right {
  const T* const* data;
  std::int64_t stride;
  int pieces;
  int chunks;
};

template <class T>
struct Result {
  T* data;
  std::int64_t stride;
};

namespace detail {

// How the L rows of a block are split so that the accumulators fill the registers and the FMA latency (4
// cycles, two units) is covered.
template <class T>
constexpr auto row_split() {
  if constexpr (kVectors == 1) {
    return std::integer_sequence<int, kLine<T>>{};
  } else if constexpr (kVectors == 2 && kLine<T> == 16) {
    return std::integer_sequence<int, 6, 5, 5>{};
  } else if constexpr (kVectors == 2) {
    return std::integer_sequence<int, 4, 4>{};
  } else if constexpr (kLine<T> == 16) {
    return std::integer_sequence<int, 2, 2, 2, 2, 2, 2, 2, 2>{};
  } else {
    return std::integer_sequence<int, 2, 2, 2, 2>{};
  }
}

// Rows [0, kRows) of one panel of the result. kTransposed: how A is stored.
template <class T, int kRows, bool kTransposed>
inline __attribute__((always_inline)) void rows_product(const T* a, std::int64_t a_chunk,
                                                        const Right<T>& right, std::int64_t b_offset, T* c,
                                                        Update update, const T* row_scale) {
  constexpr int L = kLine<T>;
  Vector<T> sum[kRows][kVectors] = {};
  for (int piece = 0; piece < right.pieces; ++piece) {
    const T* b = right.data[piece] + b_offset;
    for (int chunk = 0; chunk < right.chunks; ++chunk, a += a_chunk, b += L * L) {
#pragma GCC unroll 4
      for (int k = 0; k < L; ++k) {
        Vector<T> bk[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) bk[v] = load(b + k * L + v * kLanes<T>);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const Vector<T> ark = broadcast(kTransposed ? a[k * L + r] : a[r * L + k]);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) sum[r][v] += ark * bk[v];
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      T* place = c + r * L + v * kLanes<T>;
      if (update == Update::add) sum[r][v] += load(place);
      if (update == Update::scale_add) sum[r][v] += load(place) * row_scale[r];
      store(place, sum[r][v]);
    }
  }
}

template <class T, bool kTransposed, int... kRows>
void block_product(std::integer_sequence<int, kRows...>, const T* a, std::int64_t a_chunk,
                   const Right<T>& right, std::int64_t b_offset, T* c, Update update, const T* row_scale) {
  constexpr int L = kLine<T>;
  int row = 0;
  ((rows_product<T, kRows, kTransposed>(a + row * (kTransposed ? 1 : L), a_chunk, right, b_offset,
                                        c + row * L, update, row_scale + row),
    row += kRows),
   ...);
}

}  // namespace detail

// C (m x n) from A (m x k) and B (k x n); m, n and k multiples of kLine<T>. row_scale [m] only for scale_add.
template <bool kTransposed, class T>
void tile_product(std::int64_t m, std::int64_t n, const Left<T>& left, const Right<T>& right,
                  const Result<T>& result, Update update, const T* row_scale = nullptr) {
  constexpr int L = kLine<T>;
  const std::int64_t a_chunk = kTransposed ? L * L : left.stride;
  const std::int64_t a_block = kTransposed ? left.stride : L * L;
  for (std::int64_t j = 0; j < n / L; ++j)
    for (std::int64_t i = 0; i < m / L; ++i)
      detail::block_product<T, kTransposed>(detail::row_split<T>(), left.data + i * a_block, a_chunk, right,
                                            j * right.stride, result.data + j * result.stride + i * L * L,
                                            update, row_scale ? row_scale + i * L : nullptr);
}

}  // namespace filigree::cpu
