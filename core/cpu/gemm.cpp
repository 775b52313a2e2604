#include "core/cpu/gemm.h"

#include <dnnl.h>
#include <omp.h>
#include <signal.h>

#include <algorithm>

#include "core/parallel.h"
#include "core/tensor.h"

namespace filigree::cpu {
namespace {

using std::int64_t;

// The pool owns the cores. Without this each of its threads would start an OpenMP team of oneDNN's own.
class OneOpenMpThread {
 public:
  OneOpenMpThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneOpenMpThread() { omp_set_num_threads(before_); }
  OneOpenMpThread(const OneOpenMpThread&) = delete;
  OneOpenMpThread& operator=(const OneOpenMpThread&) = delete;

 private:
  int before_;
};

// The AVX2 and AVX-512 code of oneDNN before 3.11.2 runs with a heap address in the stack pointer
// (github.com/uxlfoundation/oneDNN/issues/4845): the frame of a signal handler would overwrite the heap. So
// signals wait, all but those that the code itself raises. Two system calls, about 0.3 microseconds.
class SignalsWait {
 public:
  SignalsWait() {
    sigset_t waiting;
    sigfillset(&waiting);
    for (const int fault : {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP}) sigdelset(&waiting, fault);
    pthread_sigmask(SIG_BLOCK, &waiting, &before_);
  }
  ~SignalsWait() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsWait(const SignalsWait&) = delete;
  SignalsWait& operator=(const SignalsWait&) = delete;

 private:
  sigset_t before_;
};

template <class T>
void scale_matrix(int64_t m, int64_t n, T beta, T* c, int64_t ldc) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == 0 ? T(0) : beta * c[i * ldc + j];
}

void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
              const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  const OneOpenMpThread one_thread;
  const SignalsWait no_handler;
  const dnnl_status_t status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, alpha, a,
                                          lda, b, ldb, beta, c, ldc);
  if (status == dnnl_out_of_memory) fail(ErrorKind::out_of_memory, "oneDNN: no memory to multiply matrices");
  check(status == dnnl_success, "dnnl_sgemm refused its arguments");
}

// Rows x kPanel: the part of C that stays in registers.
constexpr int64_t kRows = 4, kPanel = 8;

// c[kRows][kPanel] += alpha * a b, both packed so that each step of k reads kRows and kPanel neighbours.
void micro_kernel(int64_t k, double alpha, const double* a, const double* b, int64_t rows, int64_t columns,
                  double* c, int64_t ldc) {
  double sum[kRows][kPanel] = {};
  for (int64_t p = 0; p < k; ++p)
    for (int64_t i = 0; i < kRows; ++i)
#pragma omp simd
      for (int64_t j = 0; j < kPanel; ++j) sum[i][j] += a[p * kRows + i] * b[p * kPanel + j];
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) c[i * ldc + j] += alpha * sum[i][j];
}

// Packs element (i, p) of a matrix, at x[i * stride_i + p * stride_p], into panels of `width` i's, padded
// with 0.
void pack(int64_t n, int64_t k, int64_t width, const double* x, int64_t stride_i, int64_t stride_p,
          double* out) {
  for (int64_t i0 = 0; i0 < n; i0 += width)
    for (int64_t p = 0; p < k; ++p)
      for (int64_t i = i0; i < i0 + width; ++i) *out++ = i < n ? x[i * stride_i + p * stride_p] : 0.0;
}

void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
              const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c,
              int64_t ldc) {
  constexpr int64_t kBlockM = 64, kBlockN = 64, kBlockK = 128;  // both packed blocks stay in the L2 cache
  alignas(64) double packed_a[kBlockM * kBlockK], packed_b[kBlockN * kBlockK];
  const int64_t ai = transpose_a ? 1 : lda, ap = transpose_a ? lda : 1;
  const int64_t bj = transpose_b ? ldb : 1, bp = transpose_b ? 1 : ldb;
  if (beta != 1) scale_matrix(m, n, beta, c, ldc);
  for (int64_t p = 0; p < k; p += kBlockK)
    for (int64_t j = 0; j < n; j += kBlockN) {
      const int64_t kb = std::min(kBlockK, k - p), nb = std::min(kBlockN, n - j);
      pack(nb, kb, kPanel, b + j * bj + p * bp, bj, bp, packed_b);
      for (int64_t i = 0; i < m; i += kBlockM) {
        const int64_t mb = std::min(kBlockM, m - i);
        pack(mb, kb, kRows, a + i * ai + p * ap, ai, ap, packed_a);
        for (int64_t r = 0; r < mb; r += kRows)
          for (int64_t s = 0; s < nb; s += kPanel)
            micro_kernel(kb, alpha, packed_a + r * kb, packed_b + s * kb, std::min(kRows, mb - r),
                         std::min(kPanel, nb - s), c + (i + r) * ldc + j + s, ldc);
      }
    }
}

// `bias`, if given, is added to every row; beta must then be 0.
template <class T>
void multiply_blocks(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a,
                     int64_t lda, const T* b, int64_t ldb, T beta, const T* bias, T* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  const GemmPlan plan(m, n, std::max<int64_t>(k, 1));
  // Slice 0 goes to C itself, slice s > 0 to partial s - 1; then they are added in order.
  Tensor partials = plan.slices > 1 ? Tensor::empty({plan.partial_sums(m, n)}, dtype_of<T>()) : Tensor{};
  T* const partial_sums = plan.slices > 1 ? partials.data<T>() : nullptr;
  const int64_t blocks = plan.blocks_m * plan.blocks_n;
  parallel_tasks(blocks * plan.slices, [&](int64_t task) {
    const int64_t slice = task / blocks, block = task % blocks;
    const int64_t i = block / plan.blocks_n * plan.block_m, j = block % plan.blocks_n * plan.block_n;
    const int64_t p = slice * plan.block_k;
    const int64_t mb = std::min(plan.block_m, m - i), nb = std::min(plan.block_n, n - j);
    T* out = slice == 0 ? c + i * ldc + j : partial_sums + ((slice - 1) * m + i) * n + j;
    T keep = slice == 0 ? beta : T(0);
    if (bias && slice == 0) {
      for (int64_t r = 0; r < mb; ++r) std::copy_n(bias + j, nb, out + r * ldc);
      keep = 1;
    }
    gemm_serial(transpose_a, transpose_b, mb, nb, std::min(plan.block_k, k - p), alpha,
                a + (transpose_a ? p * lda + i : i * lda + p), lda,
                b + (transpose_b ? j * ldb + p : p * ldb + j), ldb, keep, out, slice == 0 ? ldc : n);
  });
  if (plan.slices == 1) return;
  parallel_for(m, ((1 << 14) + n - 1) / n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t s = 0; s < plan.slices - 1; ++s) {
        const T* partial = partial_sums + (s * m + i) * n;
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) c[i * ldc + j] += partial[j];
      }
  });
}

}  // namespace

template <class T>
void gemm_serial(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a,
                 int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (k == 0) return scale_matrix(m, n, beta, c, ldc);
  multiply(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

template <class T>
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a,
          int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  multiply_blocks<T>(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, nullptr, c, ldc);
}

template <class T>
void gemm_bias(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const T* a, int64_t lda,
               const T* b, int64_t ldb, const T* bias, T* c, int64_t ldc) {
  multiply_blocks<T>(transpose_a, transpose_b, m, n, k, 1, a, lda, b, ldb, 0, bias, c, ldc);
}

template void gemm_serial(bool, bool, int64_t, int64_t, int64_t, float, const float*, int64_t, const float*,
                          int64_t, float, float*, int64_t);
template void gemm(bool, bool, int64_t, int64_t, int64_t, float, const float*, int64_t, const float*, int64_t,
                   float, float*, int64_t);
template void gemm_bias(bool, bool, int64_t, int64_t, int64_t, const float*, int64_t, const float*, int64_t,
                        const float*, float*, int64_t);
template void gemm_serial(bool, bool, int64_t, int64_t, int64_t, double, const double*, int64_t,
                          const double*, int64_t, double, double*, int64_t);
template void gemm(bool, bool, int64_t, int64_t, int64_t, double, const double*, int64_t, const double*,
                   int64_t, double, double*, int64_t);
template void gemm_bias(bool, bool, int64_t, int64_t, int64_t, const double*, int64_t, const double*, int64_t,
                        const double*, double*, int64_t);

}  // namespace filigree::cpu
