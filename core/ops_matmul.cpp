#include "core/cpu/gemm.h"
#include "core/ops_common.h"

namespace filigree::ops {
namespace {

void take_partial_sums(const Tensor& y, std::int64_t k) {
  if (y.device() != Device::meta()) return;
  if (y.rank() > 2 && y.shape().drop_last().drop_last().numel() >= cpu::kSmallBatch) return;
  const std::int64_t n = cpu::gemm_partial_sums(y.dim(-2), y.dim(-1), k);
  if (n > 0) Tensor::empty({n}, y.dtype(), y.device());
}

// The last two dimensions of y = op(a) op(b), with a's leading ones.
Shape product_shape(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  return a.shape().with(-2, a.dim(transpose_a ? -1 : -2)).with(-1, b.dim(transpose_b ? -2 : -1));
}

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  Tensor y = Tensor::empty(product_shape(a, b, transpose_a, transpose_b), a.dtype(), a.device());
  matmul_into(a, b, transpose_a, transpose_b, 0, y);
  return y;
}

}  // namespace

void matmul_into(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double beta,
                 Tensor& y) {
  take_partial_sums(y, a.dim(transpose_a ? -2 : -1));
  on_device(y.device(), [&](auto context) { matmul(context, a, b, transpose_a, transpose_b, beta, y); });
}

void linear_into(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& y) {
  take_partial_sums(y, x.dim(-1));
  on_device(y.device(), [&](auto context) { linear(context, x, w, bias, y); });
}

Var matmul(const Var& a, const Var& b, bool transpose_a, bool transpose_b) {
  require_same_kind("matmul", a.value(), b.value());
  const auto fits = [&] {
    if (a.rank() < 2 || a.rank() != b.rank()) return false;
    for (int i = 0; i < a.rank() - 2; ++i)
      if (a.dim(i) != b.dim(i)) return false;
    return a.dim(transpose_a ? -2 : -1) == b.dim(transpose_b ? -1 : -2);
  };
  require(fits(), "[matmul] {}{} times {}{}", a.shape().str(), transpose_a ? " transposed" : "",
          b.shape().str(), transpose_b ? " transposed" : "");
  return make_result(
      "matmul", product(a.value(), b.value(), transpose_a, transpose_b), {a, b},
      [a_kept = kept_if(b.requires_grad(), a.value()), b_kept = kept_if(a.requires_grad(), b.value()),
       transpose_a, transpose_b](const Tensor& dy) {
        Tensor da, db;
        if (b_kept.defined())
          da =
              transpose_a ? product(b_kept, dy, transpose_b, true) : product(dy, b_kept, false, !transpose_b);
        if (a_kept.defined())
          db =
              transpose_b ? product(dy, a_kept, true, transpose_a) : product(a_kept, dy, !transpose_a, false);
        return std::vector<Tensor>{da, db};
      });
}

Var linear(const Var& x, const Var& w, const Var& bias) {
  require_same_kind("linear", x.value(), w.value());
  require(x.rank() >= 1 && w.rank() == 2 && x.dim(-1) == w.dim(1), "[linear] x {} with weight {}",
          x.shape().str(), w.shape().str());
  if (bias.defined()) {
    require_same_kind("linear", x.value(), bias.value());
    require(bias.shape() == Shape{w.dim(0)}, "[linear] bias {} with weight {}", bias.shape().str(),
            w.shape().str());
  }
  const Tensor x_rows = as_rows(x.value());
  Tensor y = Tensor::empty({x_rows.dim(0), w.dim(0)}, x.dtype(), x.device());
  linear_into(x_rows, w.value(), bias.value(), y);
  return make_result(
      "linear", y.reshape(x.shape().with(-1, w.dim(0))), {x, w, bias},
      [x_kept = kept_if(w.requires_grad(), x_rows), w_kept = kept_if(x.requires_grad(), w.value()),
       x_shape = x.shape(), wants_bias = bias.requires_grad()](const Tensor& dy) {
        const Tensor dy_rows = as_rows(dy);
        Tensor dx, dw, dbias;
        if (w_kept.defined()) dx = product(dy_rows, w_kept, false, false).reshape(x_shape);
        if (x_kept.defined()) dw = product(dy_rows, x_kept, true, false);
        if (wants_bias)
          dbias = computed({dy_rows.dim(1)}, dy,
                           [&](auto context, Tensor& sum) { sum_leading(context, dy_rows, sum); });
        return std::vector<Tensor>{dx, dw, dbias};
      });
}

}  // namespace filigree::ops
