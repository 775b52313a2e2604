// Matrix products, linear layers and the position-wise networks made of them.
#include "core/ops_common.h"

namespace filigree::ops {
namespace {

// On the meta device, where no kernel runs, what the CPU's product takes of the allocator is taken and given
// back here.
void take_workspace(const Tensor& y, std::int64_t elements) {
  if (elements > 0) Tensor::empty({elements}, y.dtype(), y.device());
}
void take_product_workspace(const Tensor& y, std::int64_t k) {
  const std::int64_t matrix = y.dim(-2) * y.dim(-1), batch = matrix ? y.numel() / matrix : 0;
  take_workspace(y, backend(y.device()).product_workspace(batch, y.dim(-2), y.dim(-1), k));
}
void take_linear_workspace(const Tensor& y, std::int64_t in) {
  take_workspace(y, backend(y.device()).linear_workspace(y.dim(0), y.dim(1), in));
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

// A linear layer's parameters in the dtype of its input, and which gradients they want.
struct Rounded {
  Tensor w, bias;
  Shape w_shape;
  DType type;  // of the parameters and their gradients
  bool wants_w, wants_bias;

  Rounded(const char* op, const Var& x, const Weights& weights, std::int64_t in)
      : w_shape(weights.w.shape()),
        type(weights.w.dtype()),
        wants_w(weights.w.requires_grad()),
        wants_bias(weights.bias.requires_grad()) {
    require_parameter(op, weights.w.value(), x.value());
    require(weights.w.rank() == 2 && weights.w.dim(1) == in, "[{}] weight {} for {} features", op,
            weights.w.shape().str(), in);
    w = weights.w.value().to(x.dtype());
    if (!weights.bias.defined()) return;
    require_parameter(op, weights.bias.value(), x.value());
    require(weights.bias.shape() == Shape{w.dim(0)}, "[{}] bias {} with weight {}", op,
            weights.bias.shape().str(), w.shape().str());
    bias = weights.bias.value().to(x.dtype());
  }

  // A backward keeps the weight only if x's gradient is wanted.
  Rounded kept(bool wants_x) const {
    Rounded copy = *this;
    copy.bias = {};
    if (!wants_x) copy.w = {};
    return copy;
  }

  Tensor forward(const Tensor& x_rows) const {
    Tensor y = Tensor::empty({x_rows.dim(0), w.dim(0)}, x_rows.dtype(), x_rows.device());
    linear_into(x_rows, w, bias, y);
    return y;
  }

  // Appends dw and dbias; undefined where not wanted.
  void append_gradients(const Tensor& dy_rows, const Tensor& x_rows, std::vector<Tensor>& grads) const {
    Tensor dw, dbias;
    if (wants_bias) dbias = empty_sum({w_shape[0]}, dy_rows);
    if (wants_w) {
      dw = empty_sum(w_shape, dy_rows);
      linear_backward_weight_into(dy_rows, x_rows, 0, dw, dbias);
    } else if (wants_bias) {
      on_device(dy_rows.device(), [&](auto context) { sum_leading(context, dy_rows, dbias); });
    }
    for (const Tensor& g : {dw, dbias}) grads.push_back(g.defined() ? g.to(type) : g);
  }
};

}  // namespace

void matmul_into(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double beta,
                 Tensor& y) {
  take_product_workspace(y, a.dim(transpose_a ? -2 : -1));
  on_device(y.device(), [&](auto context) { matmul(context, a, b, transpose_a, transpose_b, beta, y); });
}

void linear_into(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& y) {
  take_linear_workspace(y, x.dim(-1));
  on_device(y.device(), [&](auto context) { linear(context, x, w, bias, y); });
}

void linear_backward_weight_into(const Tensor& dy, const Tensor& x, double beta, Tensor& dw, Tensor& dbias) {
  take_product_workspace(dw, x.dim(0));
  on_device(dw.device(), [&](auto context) { linear_backward_weight(context, dy, x, beta, dw, dbias); });
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
  require(x.rank() >= 1, "[linear] x has no dimension");
  const Rounded layer("linear", x, {w, bias}, x.dim(-1));
  const Tensor x_rows = as_rows(x.value());
  Tensor y = layer.forward(x_rows).reshape(x.shape().with(-1, w.dim(0)));
  return make_result("linear", std::move(y), {x, w, bias},
                     [layer = layer.kept(x.requires_grad()), x_kept = kept_if(layer.wants_w, x_rows),
                      x_shape = x.shape(), wants_x = x.requires_grad()](const Tensor& dy) {
                       const Tensor dy_rows = as_rows(dy);
                       std::vector<Tensor> grads(1);
                       if (wants_x) grads[0] = product(dy_rows, layer.w, false, false).reshape(x_shape);
                       layer.append_gradients(dy_rows, x_kept, grads);
                       return grads;
                     });
}

Var gelu_mlp(const Var& x, const Weights& up, const Weights& down, Gelu kind) {
  require(x.rank() >= 1, "[gelu_mlp] x has no dimension");
  const Rounded first("gelu_mlp", x, up, x.dim(-1)), second("gelu_mlp", x, down, up.w.dim(0));
  const Tensor x_rows = as_rows(x.value());
  Tensor before = Tensor::empty({x_rows.dim(0), first.w.dim(0)}, x.dtype(), x.device()), y;
  {
    Tensor hidden = Tensor::empty_like(before);
    take_linear_workspace(before, x_rows.dim(1));
    on_device(x.device(),
              [&](auto context) { linear_gelu(context, x_rows, first.w, first.bias, kind, before, hidden); });
    y = second.forward(hidden).reshape(x.shape().with(-1, down.w.dim(0)));
  }
  return make_result("gelu_mlp", std::move(y), {x, up.w, up.bias, down.w, down.bias},
                     [first = first.kept(x.requires_grad()), second = second.kept(true), x_rows, before, kind,
                      x_shape = x.shape(), wants_x = x.requires_grad()](const Tensor& dy) {
                       const Tensor dy_rows = as_rows(dy);
                       std::vector<Tensor> of_second, grads(1);
                       {
                         const Tensor hidden = mapped(elementwise::gelu(kind), before);
                         second.append_gradients(dy_rows, hidden, of_second);
                       }
                       Tensor dbefore = Tensor::empty_like(before);
                       take_product_workspace(dbefore, dy_rows.dim(1));
                       on_device(dy.device(), [&](auto context) {
                         matmul_gelu_backward(context, dy_rows, second.w, before, kind, dbefore);
                       });
                       if (wants_x) grads[0] = product(dbefore, first.w, false, false).reshape(x_shape);
                       first.append_gradients(dbefore, x_rows, grads);
                       grads.insert(grads.end(), of_second.begin(), of_second.end());
                       return grads;
                     });
}

Var swiglu_mlp(const Var& x, const Weights& gate, const Weights& up, const Weights& down) {
  require(x.rank() >= 1, "[swiglu_mlp] x has no dimension");
  const Rounded gating("swiglu_mlp", x, gate, x.dim(-1)), rising("swiglu_mlp", x, up, x.dim(-1));
  const Rounded last("swiglu_mlp", x, down, up.w.dim(0));
  require(gate.w.shape() == up.w.shape(), "[swiglu_mlp] weights {} and {} differ", gate.w.shape().str(),
          up.w.shape().str());
  const Tensor x_rows = as_rows(x.value());
  const Tensor g = gating.forward(x_rows), u = rising.forward(x_rows);
  Tensor y = last.forward(mapped(elementwise::Swiglu{}, g, u)).reshape(x.shape().with(-1, down.w.dim(0)));
  return make_result("swiglu_mlp", std::move(y), {x, gate.w, gate.bias, up.w, up.bias, down.w, down.bias},
                     [gating = gating.kept(x.requires_grad()), rising = rising.kept(x.requires_grad()),
                      last = last.kept(true), x_rows, g, u, x_shape = x.shape(),
                      wants_x = x.requires_grad()](const Tensor& dy) {
                       const Tensor dy_rows = as_rows(dy);
                       std::vector<Tensor> of_last, grads(1);
                       last.append_gradients(dy_rows, mapped(elementwise::Swiglu{}, g, u), of_last);
                       Tensor dg = product(dy_rows, last.w, false, false), du = Tensor::empty_like(u);
                       on_device(dy.device(),
                                 [&](auto context) { swiglu_backward(context, dg, g, u, dg, du); });
                       if (wants_x) {
                         Tensor dx = product(dg, gating.w, false, false);
                         matmul_into(du, rising.w, false, false, 1, dx);
                         grads[0] = dx.reshape(x_shape);
                       }
                       gating.append_gradients(dg, x_rows, grads);
                       rising.append_gradients(du, x_rows, grads);
                       grads.insert(grads.end(), of_last.begin(), of_last.end());
                       return grads;
                     });
}

}  // namespace filigree::ops
