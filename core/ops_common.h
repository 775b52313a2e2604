// Checks and allocations that the ops share.
#pragma once

#include "core/kernels.h"
#include "core/ops.h"

namespace filigree::ops {

inline void require_computing(const char* op, const Tensor& x) {
  const DType type = x.dtype();
  require(type == DType::f32 || type == DType::f64 || (type == DType::bf16 && x.device().like_cuda()),
          "[{}] computes in f32 or f64{}, not {}", op, x.device().like_cuda() ? " or bf16" : "",
          dtype_name(type));
}

inline void require_same_kind(const char* op, const Tensor& a, const Tensor& b) {
  require_computing(op, a);
  require(a.dtype() == b.dtype() && a.device() == b.device(), "[{}] {} on {} with {} on {}", op,
          dtype_name(a.dtype()), a.device().str(), dtype_name(b.dtype()), b.device().str());
}

// A parameter beside x: of x's dtype or, beside bf16, f32.
inline void require_parameter(const char* op, const Tensor& parameter, const Tensor& x) {
  require_computing(op, x);
  require((parameter.dtype() == x.dtype() || parameter.dtype() == accumulation_dtype(x.dtype())) &&
              parameter.device() == x.device(),
          "[{}] a parameter in {} on {} with {} on {}", op, dtype_name(parameter.dtype()),
          parameter.device().str(), dtype_name(x.dtype()), x.device().str());
}

// Token ids, targets or bounds beside x.
inline void require_indices(const char* op, const char* name, const Tensor& indices, const Tensor& x) {
  require(indices.dtype() == DType::i32, "[{}] {} are i32, not {}", op, name, dtype_name(indices.dtype()));
  require(indices.device() == x.device(), "[{}] {} on {} with {}", op, name, indices.device().str(),
          x.device().str());
}

// A new tensor of the dtype that sums beside x are kept in.
inline Tensor empty_sum(const Shape& shape, const Tensor& x) {
  return Tensor::empty(shape, accumulation_dtype(x.dtype()), x.device());
}

// A new tensor of x's dtype and device, filled by f(context, tensor).
template <class F>
Tensor computed(const Shape& shape, const Tensor& x, F&& f) {
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  on_device(x.device(), [&](auto context) { f(context, y); });
  return y;
}

// The same of x's shape.
template <class F>
Tensor computed_like(const Tensor& x, F&& f) {
  return computed(x.shape(), x, f);
}

// Functions of each element (core/elementwise.h); b's shape is a's or a suffix of it.
inline Tensor mapped(const elementwise::Unary& f, const Tensor& x) {
  return computed_like(x, [&](auto context, Tensor& y) { map(context, f, x, y); });
}
inline Tensor mapped(const elementwise::Binary& f, const Tensor& a, const Tensor& b) {
  return computed_like(a, [&](auto context, Tensor& y) { map(context, f, a, b, y); });
}

// y = op(a) op(b) + beta y, and y = x w^T + bias. To be called instead of the kernels: on meta these take and
// give back the memory that the CPU's products need.
void matmul_into(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double beta,
                 Tensor& y);
void linear_into(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& y);
void linear_backward_weight_into(const Tensor& dy, const Tensor& x, double beta, Tensor& dw, Tensor& dbias);

// x as a matrix whose rows are its last dimension.
inline Tensor as_rows(const Tensor& x) {
  return x.reshape({x.shape().drop_last().numel(), x.dim(-1)});
}

// A backward keeps the tensor only if it needs it.
inline Tensor kept_if(bool needed, const Tensor& x) {
  return needed ? x : Tensor{};
}

}  // namespace filigree::ops
