// Arithmetic, activations and dropout.
#include "core/ops_common.h"

namespace filigree::ops {
namespace {

using namespace elementwise;

void require_same_shape(const char* op, const Var& a, const Var& b) {
  require_same_kind(op, a.value(), b.value());
  require(a.shape() == b.shape(), "[{}] shapes {} and {} differ", op, a.shape().str(), b.shape().str());
}

void require_suffix(const char* op, const Var& a, const Var& b) {
  require_same_kind(op, a.value(), b.value());
  const auto da = a.shape().dims(), db = b.shape().dims();
  require(db.size() <= da.size() && std::ranges::equal(da.last(db.size()), db),
          "[{}] shape {} is not that of the last dimensions of {}", op, b.shape().str(), a.shape().str());
}

// Summed down to `shape`, a suffix of x's.
Tensor summed_to(const Shape& shape, const Tensor& x) {
  if (x.shape() == shape) return x;
  return computed(shape, x, [&](auto context, Tensor& y) { sum_leading(context, x, y); });
}

enum class Keeps { input, result };

// y = f(x). Its gradient is a function of dy and x, or of dy and y, which alone is kept for it.
Var unary(const char* op, const Var& x, const Unary& f, const Binary& gradient, Keeps keeps) {
  require_computing(op, x.value());
  const Tensor y = mapped(f, x.value());
  return make_result(op, y, {x}, [kept = keeps == Keeps::input ? x.value() : y, gradient](const Tensor& dy) {
    return std::vector<Tensor>{mapped(gradient, dy, kept)};
  });
}

}  // namespace

Var add(const Var& a, const Var& b) {
  require_suffix("add", a, b);
  return make_result("add", mapped(Add{}, a.value(), b.value()), {a, b},
                     [shape_b = b.shape(), wants_b = b.requires_grad()](const Tensor& dy) {
                       return std::vector<Tensor>{dy, wants_b ? summed_to(shape_b, dy) : Tensor{}};
                     });
}

Var sub(const Var& a, const Var& b) {
  require_same_shape("sub", a, b);
  return make_result("sub", mapped(Subtract{}, a.value(), b.value()), {a, b},
                     [wants_b = b.requires_grad()](const Tensor& dy) {
                       return std::vector<Tensor>{dy, wants_b ? mapped(Scale{-1}, dy) : Tensor{}};
                     });
}

Var mul(const Var& a, const Var& b) {
  require_suffix("mul", a, b);
  return make_result(
      "mul", mapped(Multiply{}, a.value(), b.value()), {a, b},
      [a_value = kept_if(b.requires_grad(), a.value()), b_value = kept_if(a.requires_grad(), b.value()),
       shape_b = b.shape()](const Tensor& dy) {
        Tensor da, db;
        if (b_value.defined()) da = mapped(Multiply{}, dy, b_value);
        if (a_value.defined() && dy.shape() == shape_b) {
          db = mapped(Multiply{}, dy, a_value);
        } else if (a_value.defined()) {
          db = computed(shape_b, dy,
                        [&](auto context, Tensor& y) { multiply_sum_leading(context, dy, a_value, y); });
        }
        return std::vector<Tensor>{da, db};
      });
}

Var scale(const Var& x, double factor) {
  require_computing("scale", x.value());
  return make_result("scale", mapped(Scale{factor}, x.value()), {x},
                     [factor](const Tensor& dy) { return std::vector<Tensor>{mapped(Scale{factor}, dy)}; });
}

Var exp(const Var& x) {
  return unary("exp", x, Exp{}, Multiply{}, Keeps::result);
}

Var log(const Var& x) {
  return unary("log", x, Log{}, Divide{}, Keeps::input);
}

Var sigmoid(const Var& x) {
  return unary("sigmoid", x, Sigmoid{}, SigmoidGradient{}, Keeps::result);
}

Var silu(const Var& x) {
  return unary("silu", x, Silu{}, SiluGradient{}, Keeps::input);
}

Var gelu(const Var& x, Gelu kind) {
  return unary("gelu", x, elementwise::gelu(kind), gelu_gradient(kind), Keeps::input);
}

Var clamp(const Var& x, double low, double high, Cut gradient) {
  require_computing("clamp", x.value());
  require(low <= high, "[clamp] the limits {} and {} are in the wrong order", low, high);
  if (gradient == Cut::stop)
    return unary("clamp", x, Clamp{low, high}, ClampGradient{low, high}, Keeps::input);
  return make_result("clamp", mapped(Clamp{low, high}, x.value()), {x},
                     [](const Tensor& dy) { return std::vector<Tensor>{dy}; });
}

Var limit_gradient(const Var& x, double limit) {
  require_computing("limit_gradient", x.value());
  require(limit >= 0, "[limit_gradient] the limit {} is negative", limit);
  return make_result("limit_gradient", x.value(), {x}, [limit](const Tensor& dy) {
    return std::vector<Tensor>{mapped(Clamp{-limit, limit}, dy)};
  });
}

Var dropout(const Var& x, double p, RandomKey key, const Tensor& step) {
  require_computing("dropout", x.value());
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
