// Functions of one or two elements, each said once for all devices and element types. `m` is the mathematics
// of the device that computes (cpu::Math, cuda::Math). They are constexpr, so that nvcc lets kernels call
// them, and types, so that they can be a kernel's template argument.
#pragma once

#include <variant>

namespace filigree::elementwise {

struct Scale {
  double factor;
  template <class T>
  constexpr T operator()(auto, T x) const {
    return x * static_cast<T>(factor);
  }
};
struct Clamp {
  double low, high;
  template <class T>
  constexpr T operator()(auto, T x) const {
    const T l = static_cast<T>(low), h = static_cast<T>(high);
    return x < l ? l : x > h ? h : x;  // NaN stays NaN
  }
};
struct Exp {
  constexpr auto operator()(auto m, auto x) const { return m.exp(x); }
};
struct Log {
  constexpr auto operator()(auto m, auto x) const { return m.log(x); }
};
struct Sigmoid {
  constexpr auto operator()(auto m, auto x) const { return m.sigmoid(x); }
};
struct Silu {
  constexpr auto operator()(auto m, auto x) const { return x * m.sigmoid(x); }
};

// The standard normal distribution: P(X < x) and its density.
template <class T>
constexpr T normal_cdf(auto m, T x) {
  return T(0.5) + T(0.5) * m.erf(x * T(0.70710678118654752));
}
template <class T>
constexpr T normal_density(auto m, T x) {
  return T(0.39894228040143268) * m.exp(T(-0.5) * x * x);
}
// gelu's tanh form, 0.5 x (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3), is x sigmoid(2u).
template <class T>
constexpr T twice_gelu_tanh_argument(T x) {
  return T(1.5957691216057308) * x * (T(1) + T(0.044715) * x * x);
}

struct GeluErf {
  constexpr auto operator()(auto m, auto x) const { return x * normal_cdf(m, x); }
};
struct GeluTanh {
  constexpr auto operator()(auto m, auto x) const { return x * m.sigmoid(twice_gelu_tanh_argument(x)); }
};

struct Add {
  constexpr auto operator()(auto, auto a, auto b) const { return a + b; }
};
struct Subtract {
  constexpr auto operator()(auto, auto a, auto b) const { return a - b; }
};
struct Multiply {
  constexpr auto operator()(auto, auto a, auto b) const { return a * b; }
};
struct Divide {
  constexpr auto operator()(auto, auto a, auto b) const { return a / b; }
};
struct Swiglu {
  constexpr auto operator()(auto m, auto gate, auto up) const { return gate * m.sigmoid(gate) * up; }
};

// The gradient of x, given that of the result and x, or y, the result.
struct ClampGradient {
  double low, high;
  template <class T>
  constexpr T operator()(auto, T dy, T x) const {
    return x < static_cast<T>(low) || x > static_cast<T>(high) ? T(0) : dy;
  }
};
struct SigmoidGradient {
  template <class T>
  constexpr T operator()(auto, T dy, T y) const {
    return dy * y * (T(1) - y);
  }
};
struct SiluGradient {
  template <class T>
  constexpr T operator()(auto m, T dy, T x) const {
    const T s = m.sigmoid(x);
    return dy * s * (T(1) + x * (T(1) - s));
  }
};
struct GeluErfGradient {
  constexpr auto operator()(auto m, auto dy, auto x) const {
    return dy * (normal_cdf(m, x) + x * normal_density(m, x));
  }
};
struct GeluTanhGradient {
  template <class T>
  constexpr T operator()(auto m, T dy, T x) const {
    const T s = m.sigmoid(twice_gelu_tanh_argument(x));
    const T slope = T(1.5957691216057308) * (T(1) + T(0.134145) * x * x);
    return dy * (s + x * s * (T(1) - s) * slope);
  }
};
template <class T>
constexpr void swiglu_gradient(auto m, T dy, T gate, T up, T& dgate, T& dup) {
  const T s = m.sigmoid(gate);
  dgate = dy * up * s * (T(1) + gate * (T(1) - s));
  dup = dy * gate * s;
}

using Unary = std::variant<Scale, Clamp, Exp, Log, Sigmoid, Silu, GeluErf, GeluTanh>;
using Binary = std::variant<Add, Subtract, Multiply, Divide, Swiglu, ClampGradient, SigmoidGradient,
                            SiluGradient, GeluErfGradient, GeluTanhGradient>;

enum class Gelu { erf, tanh };
inline Unary gelu(Gelu kind) {
  return kind == Gelu::erf ? Unary(GeluErf{}) : Unary(GeluTanh{});
}
inline Binary gelu_gradient(Gelu kind) {
  return kind == Gelu::erf ? Binary(GeluErfGradient{}) : Binary(GeluTanhGradient{});
}

}  // namespace filigree::elementwise
