// Arithmetic, activations and dropout.
#include "core/ops_common.h"

namespace filigree::ops {
namespace {

void require_float(const char* op, const Var& x) {
  require_computing(op, x.value());
}

void require_alike(const char* op, const Var& a, const Var& b) {
  require_float(op, a);
  require(a.dtype() == b.dtype() && a.device() == b.device(), "[{}] {} on {} with {} on {}", op,
          dtype_name(a.dtype()), a.device().str(), dtype_name(b.dtype()), b.device().str());
}

void require_same_shape(const char* op, const Var& a, const Var& b) {
  require_alike(op, a, b);
  require(a.shape() == b.shape(), "[{}] shapes {} and {} differ", op, a.shape().str(), b.shape().str());
}

void require_suffix(const char* op, const Var& a, const Var& b) {
  require_alike(op, a, b);
  const auto da = a.shape().dims(), db = b.shape().dims();
  require(db.size() <= da.size() && std::ranges::equal(da.last(db.size()), db),
          "[{}] shape {} is not that of the last dimensions of {}", op, b.shape().str(), a.shape().str());
}

// A new tensor like x, filled by f(context, tensor).
template <class F>
Tensor computed_like(const Tensor& x, F&& f) {
  Tensor y = Tensor::empty_like(x);
  on_device(x.device(), [&](auto context) { f(context, y); });
  return y;
}

Tensor product(const Tensor& a, const Tensor& b) {
  return computed_like(a, [&](auto context, Tensor& y) { multiply(context, a, b, y); });
}

Tensor scaled(const Tensor& x, double factor) {
  return computed_like(x, [&](auto context, Tensor& y) { scale(context, factor, x, y); });
}

// Summed down to `shape`, a suffix of x's.
Tensor summed_to(const Shape& shape, const Tensor& x) {
  if (x.shape() == shape) return x;
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  on_device(x.device(), [&](auto context) { sum_leading(context, x, y); });
  return y;
}

}  // namespace

Var add(const Var& a, const Var& b) {
  require_suffix("add", a, b);
  Tensor value =
      computed_like(a.value(), [&](auto context, Tensor& y) { add(context, a.value(), b.value(), y); });
  return make_result("add", value, {a, b},
                     [shape_b = b.shape(), wants_b = b.requires_grad()](const Tensor& dy) {
                       return std::vector<Tensor>{dy, wants_b ? summed_to(shape_b, dy) : Tensor{}};
                     });
}

Var sub(const Var& a, const Var& b) {
  require_same_shape("sub", a, b);
  Tensor value =
      computed_like(a.value(), [&](auto context, Tensor& y) { subtract(context, a.value(), b.value(), y); });
  return make_result("sub", value, {a, b}, [wants_b = b.requires_grad()](const Tensor& dy) {
    return std::vector<Tensor>{dy, wants_b ? scaled(dy, -1) : Tensor{}};
  });
}

Var mul(const Var& a, const Var& b) {
  require_suffix("mul", a, b);
  return make_result(
      "mul", product(a.value(), b.value()), {a, b},
      [a_value = kept_if(b.requires_grad(), a.value()), b_value = kept_if(a.requires_grad(), b.value()),
       shape_b = b.shape()](const Tensor& dy) {
        Tensor da, db;
        if (b_value.defined()) da = product(dy, b_value);
        if (a_value.defined() && dy.shape() == shape_b) {
          db = product(dy, a_value);
        } else if (a_value.defined()) {
          db = Tensor::empty(shape_b, dy.dtype(), dy.device());
          on_device(dy.device(), [&](auto context) { multiply_sum_leading(context, dy, a_value, db); });
        }
        return std::vector<Tensor>{da, db};
      });
}

Var div(const Var& a, const Var& b) {
  require_same_shape("div", a, b);
  Tensor value =
      computed_like(a.value(), [&](auto context, Tensor& y) { divide(context, a.value(), b.value(), y); });
  return make_result(
      "div", value, {a, b},
      [b_value = b.value(), y = kept_if(b.requires_grad(), value),
       wants_a = a.requires_grad()](const Tensor& dy) {
        Tensor da, db;
        if (wants_a)
          da = computed_like(dy, [&](auto context, Tensor& out) { divide(context, dy, b_value, out); });
        if (y.defined())
          db = computed_like(
              dy, [&](auto context, Tensor& out) { divide_backward(context, dy, y, b_value, out); });
        return std::vector<Tensor>{da, db};
      });
}

Var scale(const Var& x, double factor) {
  require_float("scale", x);
  return make_result("scale", scaled(x.value(), factor), {x},
                     [factor](const Tensor& dy) { return std::vector<Tensor>{scaled(dy, factor)}; });
}

Var exp(const Var& x) {
  require_float("exp", x);
  Tensor y =
      computed_like(x.value(), [&](auto context, Tensor& out) { exp_forward(context, x.value(), out); });
  return make_result("exp", y, {x}, [y](const Tensor& dy) { return std::vector<Tensor>{product(dy, y)}; });
}

Var log(const Var& x) {
  require_float("log", x);
  Tensor y =
      computed_like(x.value(), [&](auto context, Tensor& out) { log_forward(context, x.value(), out); });
  return make_result("log", y, {x}, [x_value = x.value()](const Tensor& dy) {
    return std::vector<Tensor>{
        computed_like(dy, [&](auto context, Tensor& dx) { divide(context, dy, x_value, dx); })};
  });
}

Var sigmoid(const Var& x) {
  require_float("sigmoid", x);
  Tensor y =
      computed_like(x.value(), [&](auto context, Tensor& out) { sigmoid_forward(context, x.value(), out); });
  return make_result("sigmoid", y, {x}, [y](const Tensor& dy) {
    return std::vector<Tensor>{
        computed_like(dy, [&](auto context, Tensor& dx) { sigmoid_backward(context, dy, y, dx); })};
  });
}

Var tanh(const Var& x) {
  require_float("tanh", x);
  Tensor y =
      computed_like(x.value(), [&](auto context, Tensor& out) { tanh_forward(context, x.value(), out); });
  return make_result("tanh", y, {x}, [y](const Tensor& dy) {
    return std::vector<Tensor>{
        computed_like(dy, [&](auto context, Tensor& dx) { tanh_backward(context, dy, y, dx); })};
  });
}

Var relu(const Var& x) {
  require_float("relu", x);
  Tensor y =
      computed_like(x.value(), [&](auto context, Tensor& out) { relu_forward(context, x.value(), out); });
  return make_result("relu", y, {x}, [y](const Tensor& dy) {
    return std::vector<Tensor>{
        computed_like(dy, [&](auto context, Tensor& dx) { relu_backward(context, dy, y, dx); })};
  });
}

Var clamp(const Var& x, double low, double high, Cut gradient) {
  require_float("clamp", x);
  require(low <= high, "[clamp] the limits {} and {} are in the wrong order", low, high);
  Tensor y = computed_like(
      x.value(), [&](auto context, Tensor& out) { clamp_forward(context, x.value(), low, high, out); });
  if (gradient == Cut::through)
    return make_result("clamp", y, {x}, [](const Tensor& dy) { return std::vector<Tensor>{dy}; });
  return make_result("clamp", y, {x}, [x_value = x.value(), low, high](const Tensor& dy) {
    return std::vector<Tensor>{computed_like(
        dy, [&](auto context, Tensor& dx) { clamp_backward(context, dy, x_value, low, high, dx); })};
  });
}

Var limit_gradient(const Var& x, double limit) {
  require_float("limit_gradient", x);
  require(limit >= 0, "[limit_gradient] the limit {} is negative", limit);
  return make_result("limit_gradient", x.value(), {x}, [limit](const Tensor& dy) {
    return std::vector<Tensor>{
        computed_like(dy, [&](auto context, Tensor& dx) { clamp_forward(context, dy, -limit, limit, dx); })};
  });
}

Var gelu(const Var& x, Gelu kind) {
  require_float("gelu", x);
  Tensor y = computed_like(x.value(),
                           [&](auto context, Tensor& out) { gelu_forward(context, x.value(), kind, out); });
  return make_result("gelu", y, {x}, [x_value = x.value(), kind](const Tensor& dy) {
    return std::vector<Tensor>{
        computed_like(dy, [&](auto context, Tensor& dx) { gelu_backward(context, dy, x_value, kind, dx); })};
  });
}

Var silu(const Var& x) {
  require_float("silu", x);
  Tensor y =
      computed_like(x.value(), [&](auto context, Tensor& out) { silu_forward(context, x.value(), out); });
  return make_result("silu", y, {x}, [x_value = x.value()](const Tensor& dy) {
    return std::vector<Tensor>{
        computed_like(dy, [&](auto context, Tensor& dx) { silu_backward(context, dy, x_value, dx); })};
  });
}

Var swiglu(const Var& gate, const Var& up) {
  require_same_shape("swiglu", gate, up);
  Tensor value = computed_like(
      gate.value(), [&](auto context, Tensor& y) { swiglu_forward(context, gate.value(), up.value(), y); });
  return make_result("swiglu", value, {gate, up},
                     [g = gate.value(), u = up.value(), wants_gate = gate.requires_grad(),
                      wants_up = up.requires_grad()](const Tensor& dy) {
                       Tensor dgate, dup;
                       if (wants_gate) dgate = Tensor::empty_like(g);
                       if (wants_up) dup = Tensor::empty_like(u);
                       on_device(dy.device(),
                                 [&](auto context) { swiglu_backward(context, dy, g, u, dgate, dup); });
                       return std::vector<Tensor>{dgate, dup};
                     });
}

Var dropout(const Var& x, double p, RandomKey key, const Tensor& step) {
  require_float("dropout", x);
  require(p >= 0 && p < 1, "[dropout] probability {} is not in [0, 1)", p);
  require(!step.defined() || (step.dtype() == DType::u32 && step.numel() == 1 && step.device() == x.device()),
          "[dropout] the step is not one u32 on {}", x.device().str());
  if (p == 0) return x;
  const auto masked = [p, key, step](const Tensor& t) {
    return computed_like(t, [&](auto context, Tensor& y) { dropout(context, t, p, key, step, y); });
  };
  return make_result("dropout", masked(x.value()), {x},
                     [masked](const Tensor& dy) { return std::vector<Tensor>{masked(dy)}; });
}

Var convert(const Var& x, DType type) {
  if (type == x.dtype()) return x;
  return make_result("convert", x.value().to(type), {x},
                     [before = x.dtype()](const Tensor& dy) { return std::vector<Tensor>{dy.to(before)}; });
}

}  // namespace filigree::ops
