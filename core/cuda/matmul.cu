// Matrix products of tensors, with what follows them in the same kernel where that is faster than in two.
#include "core/cuda/cublaslt.h"
#include "core/cuda/cuda.h"

namespace filigree::cuda {
namespace {

Matrix matrix(const Tensor& t) {
  return {t.raw_data(), t.dtype(), t.dim(-2), t.dim(-1)};
}

Product product(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double beta,
                const Tensor& y) {
  const std::int64_t batch = y.shape().drop_last().drop_last().numel();
  return {.a = matrix(a),
          .b = matrix(b),
          .y = matrix(y),
          .transpose_a = transpose_a,
          .transpose_b = transpose_b,
          .batch = batch,
          .beta = beta};
}

// False, and nothing is done, where the product and the epilogue take a kernel each.
bool multiply_fused(Context context, Product p, Epilogue epilogue, const Tensor& vector,
                    const Tensor& before) {
  if (p.a.rows * p.a.columns == 0 || p.b.rows * p.b.columns == 0) return false;
  p.epilogue = epilogue;
  p.vector = vector.defined() ? vector.raw_data() : nullptr;
  p.before = before.defined() ? before.raw_data() : nullptr;
  return multiply(context, p);
}

// On Hopper cuBLASLt's gelu is part of the product's kernel. On cards before and after it, others measured a
// kernel of its own to be faster (karpathy/llm.c #338 and #591, sgl-project/sglang #34350).
bool fuses_gelu(Context context, const Tensor& before, elementwise::Gelu kind) {
  int major = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, context.device));
  return major == 9 && kind == elementwise::Gelu::tanh && before.dtype() == DType::bf16 &&
         before.dim(1) % 8 == 0 && reinterpret_cast<std::uintptr_t>(before.raw_data()) % 16 == 0;
}

}  // namespace

void matmul(Context context, const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b,
            double beta, Tensor& y) {
  if (y.numel() == 0) return;
  if (a.numel() > 0)
    multiply(context, product(a, b, transpose_a, transpose_b, beta, y));
  else if (beta == 0)
    fill(context, 0, y);
  else
    map(context, elementwise::Scale{beta}, y, y);
}

void linear(Context context, const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& y) {
  if (bias.defined() && multiply_fused(context, product(x, w, false, true, 0, y), Epilogue::bias, bias, {}))
    return;
  matmul(context, x, w, false, true, 0, y);
  if (bias.defined()) map(context, elementwise::Add{}, y, bias, y);
}

void linear_backward_weight(Context context, const Tensor& dy, const Tensor& x, double beta, Tensor& dw,
                            Tensor& dbias) {
  // dbias by an epilogue of cuBLASLt's was slower than a kernel that reads dy once more (RESULTS.md).
  matmul(context, dy, x, true, false, beta, dw);
  if (dbias.defined()) sum_leading(context, dy, dbias);
}

void linear_gelu(Context context, const Tensor& x, const Tensor& w, const Tensor& bias,
                 elementwise::Gelu kind, Tensor& before, Tensor& y) {
  if (fuses_gelu(context, before, kind) &&
      multiply_fused(context, product(x, w, false, true, 0, y), Epilogue::gelu, bias, before))
    return;
  linear(context, x, w, bias, before);
  map(context, elementwise::gelu(kind), before, y);
}

void matmul_gelu_backward(Context context, const Tensor& dy, const Tensor& w, const Tensor& before,
                          elementwise::Gelu kind, Tensor& dbefore) {
  if (fuses_gelu(context, before, kind) &&
      multiply_fused(context, product(dy, w, false, false, 0, dbefore), Epilogue::gelu_gradient, {}, before))
    return;
  matmul(context, dy, w, false, false, 0, dbefore);
  map(context, elementwise::gelu_gradient(kind), dbefore, before, dbefore);
}

}  // namespace filigree::cuda
