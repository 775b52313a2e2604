// Ops that only tests call: the oracle's, and those of kernels that the product uses inside larger ops.
#pragma once

#include <cmath>
#include <vector>

#include "core/ops_common.h"

namespace filigree::ops {

inline void scale_in_place(Tensor& x, double factor) {
  on_device(x.device(), [&](auto context) { map(context, elementwise::Scale{factor}, x, x); });
}

inline double sum_of_squares(const Tensor& x) {
  return sum_of_squares(std::span(&x, 1), x.device()).item();
}

inline Var div(const Var& a, const Var& b) {
  require_same_kind("div", a.value(), b.value());
  require(a.shape() == b.shape(), "[div] shapes {} and {} differ", a.shape().str(), b.shape().str());
  const Tensor y = mapped(elementwise::Divide{}, a.value(), b.value());
  return make_result("div", y, {a, b}, [y, b_value = b.value()](const Tensor& dy) {
    const Tensor da = mapped(elementwise::Divide{}, dy, b_value);
    return std::vector<Tensor>{da, mapped(elementwise::Scale{-1}, mapped(elementwise::Multiply{}, da, y))};
  });
}

// silu(gate) * up (Shazeer 2020)
inline Var swiglu(const Var& gate, const Var& up) {
  require_same_kind("swiglu", gate.value(), up.value());
  return make_result("swiglu", mapped(elementwise::Swiglu{}, gate.value(), up.value()), {gate, up},
                     [g = gate.value(), u = up.value()](const Tensor& dy) {
                       Tensor dg = Tensor::empty_like(g), du = Tensor::empty_like(u);
                       on_device(dy.device(),
                                 [&](auto context) { swiglu_backward(context, dy, g, u, dg, du); });
                       return std::vector<Tensor>{dg, du};
                     });
}

// [B, N, G, D] -> [B, N, G * times, D]
inline Var repeat_heads(const Var& x, std::int64_t times) {
  require(x.rank() == 4 && times >= 1, "[repeat_heads] {} {} times", x.shape().str(), times);
  if (times == 1) return x;
  const Var rows = reshape(x, {x.dim(0) * x.dim(1) * x.dim(2), x.dim(3)});
  return reshape(concat_last(std::vector<Var>(static_cast<std::size_t>(times), rows)),
                 x.shape().with(2, x.dim(2) * times));
}

// Rotary positions on x [B, N, H, D]; position n0 + n for row n.
inline Var rope(const Var& x, double theta = 10000.0, std::int64_t n0 = 0) {
  require(x.rank() == 4 && x.dim(3) % 2 == 0, "[rope] x {} is not [B, N, H, D] with an even D",
          x.shape().str());
  require_computing("rope", x.value());
  require(theta > 0 && std::isfinite(theta), "[rope] theta {} is not a positive number", theta);
  const auto rotated = [theta, n0](const Tensor& t, bool inverse) {
    return computed_like(t,
                         [&](auto context, Tensor& y) { rope(context, t, t.dim(2), theta, n0, inverse, y); });
  };
  return make_result("rope", rotated(x.value(), false), {x},
                     [rotated](const Tensor& dy) { return std::vector<Tensor>{rotated(dy, true)}; });
}

}  // namespace filigree::ops
