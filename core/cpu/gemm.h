// Matrix product on the CPU, row-major: C = alpha op(A) op(B) + beta C with op(A) m x k, op(B) k x n.
// f32 goes to oneDNN's sgemm, f64 (gradient checks) to a plain blocked loop.
#pragma once

#include <string>

#include "core/cpu/gemm_plan.h"

namespace filigree::cpu {

std::string onednn_version();  // of the library loaded at run time

// On the calling thread only; to be called from inside a parallel task.
template <class T>
void gemm_serial(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, T alpha,
                 const T* a, std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc);

// On all threads, cut into blocks of C that depend only on the shape: the same bits for any number of
// threads.
template <class T>
void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, T alpha,
          const T* a, std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc);

// As gemm with alpha = 1, beta = 0, and bias [n] added to every row while its block is in the cache.
template <class T>
void gemm_bias(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* a,
               std::int64_t lda, const T* b, std::int64_t ldb, const T* bias, T* c, std::int64_t ldc);

// y = x w^T + bias for at most kFewRows rows: x [rows, in], w [out, in], bias [out] or nullptr. Bound by
// reading w, which it does once and in place, where a product in blocks would copy it first. The bits of a
// row depend neither on the number of threads nor on the rows beside it.
template <class T>
void linear_few_rows(std::int64_t rows, std::int64_t in, std::int64_t out, const T* x, const T* w,
                     const T* bias, T* y);

}  // namespace filigree::cpu
