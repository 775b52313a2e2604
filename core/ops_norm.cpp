// Normalisation over the last dimension.
#include "core/kernels.h"
#include "core/ops.h"

namespace filigree::ops {
namespace {

void require_vector(const char* op, const char* name, const Var& v, const Var& x) {
  require(v.rank() == 1 && v.dim(0) == x.dim(-1) && v.dtype() == x.dtype() && v.device() == x.device(),
          "[{}] {} {} {} on {} for x {} {} on {}; want [{}]", op, name, dtype_name(v.dtype()),
          v.shape().str(), v.device().str(), dtype_name(x.dtype()), x.shape().str(), x.device().str(),
          x.dim(-1));
}

void require_rows(const char* op, const Var& x) {
  require(x.rank() >= 1, "[{}] x has no dimension", op);
  require(x.dtype() == DType::f32 || x.dtype() == DType::f64, "[{}] computes in f32 or f64, not {}", op,
          dtype_name(x.dtype()));
}

// Saves x, which is alive anyhow, and two numbers per row.
Var norm(const char* op, bool centred, const Var& x, const Var& weight, const Var& bias, double eps) {
  require_rows(op, x);
  require_vector(op, "weight", weight, x);
  if (bias.defined()) require_vector(op, "bias", bias, x);
  const Shape rows{x.shape().drop_last().numel()};
  Tensor y = Tensor::empty_like(x.value()), rstd = Tensor::empty(rows, x.dtype(), x.device());
  Tensor mean = centred ? Tensor::empty_like(rstd) : Tensor{};
  on_device(x.device(), [&](auto context) {
    norm_forward(context, x.value(), weight.value(), bias.value(), eps, y, mean, rstd);
  });
  std::vector<Var> inputs{x, weight};
  if (bias.defined()) inputs.push_back(bias);
  return make_result(op, y, inputs,
                     [=, x_value = x.value(), w = weight.value(), wants_x = x.requires_grad(),
                      wants_weight = weight.requires_grad(), has_bias = bias.defined(),
                      wants_bias = bias.requires_grad()](const Tensor& dy) {
                       Tensor dx, dweight, dbias;
                       if (wants_x) dx = Tensor::empty_like(x_value);
                       if (wants_weight) dweight = Tensor::empty_like(w);
                       if (wants_bias) dbias = Tensor::empty_like(w);
                       on_device(dy.device(), [&](auto context) {
                         norm_backward(context, dy, x_value, w, mean, rstd, dx, dweight, dbias);
                       });
                       std::vector<Tensor> grads{dx, dweight};
                       if (has_bias) grads.push_back(dbias);
                       return grads;
                     });
}

}  // namespace

Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps) {
  return norm("layer_norm", true, x, weight, bias, eps);
}

Var rms_norm(const Var& x, const Var& weight, double eps) {
  return norm("rms_norm", false, x, weight, Var{}, eps);
}

Var softmax(const Var& x) {
  require_rows("softmax", x);
  Tensor y = Tensor::empty_like(x.value());
  on_device(x.device(), [&](auto context) { softmax_forward(context, x.value(), y); });
  return make_result("softmax", y, {x}, [y](const Tensor& dy) {
    Tensor dx = Tensor::empty_like(y);
    on_device(dy.device(), [&](auto context) { softmax_backward(context, dy, y, dx); });
    return std::vector<Tensor>{dx};
  });
}

}  // namespace filigree::ops
