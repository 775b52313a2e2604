// Matrix products of tensors: shapes to leading dimensions, and batches to tasks.
#include "core/cpu/gemm.h"
#include "core/cpu/partition.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {

void matmul(Context, const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double beta,
            Tensor& y) {
  with_float(y.dtype(), [&]<class T>(T) {
    const std::int64_t m = y.dim(-2), n = y.dim(-1), k = a.dim(transpose_a ? -2 : -1);
    const std::int64_t batch = y.shape().drop_last().drop_last().numel();
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* py = y.data<T>();
    const auto multiply = [&](auto&& gemm_function, std::int64_t i) {
      gemm_function(transpose_a, transpose_b, m, n, k, T(1), pa + i * m * k, a.dim(-1), pb + i * k * n,
                    b.dim(-1), static_cast<T>(beta), py + i * m * n, n);
    };
    constexpr std::int64_t kTaskFlops = 1 << 20;
    if (batch < kSmallBatch) {
      for (std::int64_t i = 0; i < batch; ++i) multiply(gemm<T>, i);
      return;
    }
    const std::int64_t grain =
        std::max<std::int64_t>(1, kTaskFlops / std::max<std::int64_t>(1, 2 * m * n * k));
    parallel_for(batch, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) multiply(gemm_serial<T>, i);
    });
  });
}

void linear(Context, const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& y) {
  with_float(y.dtype(), [&]<class T>(T) {
    const std::int64_t rows = x.dim(0), in = x.dim(1), out = w.dim(0);
    const T *px = x.data<T>(), *pw = w.data<T>();
    if (rows <= kFewRows) {
      linear_few_rows<T>(rows, in, out, px, pw, bias.defined() ? bias.data<T>() : nullptr, y.data<T>());
    } else if (bias.defined()) {
      gemm_bias<T>(false, true, rows, out, in, px, in, pw, in, bias.data<T>(), y.data<T>(), out);
    } else {
      gemm<T>(false, true, rows, out, in, 1, px, in, pw, in, 0, y.data<T>(), out);
    }
  });
}

void linear_backward_weight(Context context, const Tensor& dy, const Tensor& x, double beta, Tensor& dw,
                            Tensor& dbias) {
  matmul(context, dy, x, true, false, beta, dw);
  if (dbias.defined()) sum_leading(context, dy, dbias);
}

void linear_gelu(Context context, const Tensor& x, const Tensor& w, const Tensor& bias,
                 elementwise::Gelu kind, Tensor& before, Tensor& y) {
  linear(context, x, w, bias, before);
  map(context, elementwise::gelu(kind), before, y);
}

void matmul_gelu_backward(Context context, const Tensor& dy, const Tensor& w, const Tensor& before,
                          elementwise::Gelu kind, Tensor& dbefore) {
  matmul(context, dy, w, false, false, 0, dbefore);
  map(context, elementwise::gelu_gradient(kind), dbefore, before, dbefore);
}

}  // namespace filigree::cpu
