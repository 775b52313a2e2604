// Elementwise functions of one tensor, their derivatives, and swiglu.
#include "core/cpu/partition.h"
#include "core/cpu/vector_math.h"
#include "core/kernels.h"

namespace filigree::cpu {
namespace {

// y[i] = f(x[i])
template <class F>
void map(const Tensor& x, Tensor& y, F f) {
  with_float(x.dtype(), [&]<class T>(T) {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    parallel_elements(x.numel(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) py[i] = f(px[i]);
    });
  });
}

// z[i] = f(x[i], y[i])
template <class F>
void map(const Tensor& x, const Tensor& y, Tensor& z, F f) {
  with_float(x.dtype(), [&]<class T>(T) {
    const T *px = x.data<T>(), *py = y.data<T>();
    T* pz = z.data<T>();
    parallel_elements(x.numel(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) pz[i] = f(px[i], py[i]);
    });
  });
}

// The standard normal distribution: P(X < x) and its density.
template <class T>
T normal_cdf(T x) {
  return T(0.5) + T(0.5) * math::erf(x * T(0.70710678118654752));
}
template <class T>
T normal_density(T x) {
  return T(0.39894228040143268) * math::exp(T(-0.5) * x * x);
}

// gelu's tanh form, 0.5 x (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3), is x sigmoid(2u).
template <class T>
T twice_gelu_tanh_argument(T x) {
  return T(1.5957691216057308) * x * (T(1) + T(0.044715) * x * x);
}

struct SiluGradient {
  template <class T>
  T operator()(T dy, T x) const {
    const T s = math::sigmoid(x);
    return dy * s * (T(1) + x * (T(1) - s));
  }
};

}  // namespace

void exp_forward(Context, const Tensor& x, Tensor& y) {
  map(x, y, [](auto v) { return math::exp(v); });
}

void log_forward(Context, const Tensor& x, Tensor& y) {
  map(x, y, [](auto v) { return math::log(v); });
}

void sigmoid_forward(Context, const Tensor& x, Tensor& y) {
  map(x, y, [](auto v) { return math::sigmoid(v); });
}

void sigmoid_backward(Context, const Tensor& dy, const Tensor& y, Tensor& dx) {
  map(dy, y, dx, []<class T>(T g, T s) { return g * s * (T(1) - s); });
}

void tanh_forward(Context, const Tensor& x, Tensor& y) {
  map(x, y, [](auto v) { return math::tanh(v); });
}

void tanh_backward(Context, const Tensor& dy, const Tensor& y, Tensor& dx) {
  map(dy, y, dx, []<class T>(T g, T t) { return g * (T(1) - t * t); });
}

void relu_forward(Context, const Tensor& x, Tensor& y) {
  map(x, y, []<class T>(T v) { return v < T(0) ? T(0) : v; });  // NaN stays NaN
}

void relu_backward(Context, const Tensor& dy, const Tensor& y, Tensor& dx) {
  map(dy, y, dx, []<class T>(T g, T v) { return v > T(0) ? g : T(0); });
}

void clamp_forward(Context, const Tensor& x, double low, double high, Tensor& y) {
  map(x, y, [=]<class T>(T v) {
    const T l = static_cast<T>(low), h = static_cast<T>(high);
    return v < l ? l : v > h ? h : v;  // NaN stays NaN
  });
}

void clamp_backward(Context, const Tensor& dy, const Tensor& x, double low, double high, Tensor& dx) {
  map(dy, x, dx,
      [=]<class T>(T g, T v) { return v < static_cast<T>(low) || v > static_cast<T>(high) ? T(0) : g; });
}

void gelu_forward(Context, const Tensor& x, ops::Gelu kind, Tensor& y) {
  if (kind == ops::Gelu::erf)
    map(x, y, [](auto v) { return v * normal_cdf(v); });
  else
    map(x, y, [](auto v) { return v * math::sigmoid(twice_gelu_tanh_argument(v)); });
}

void gelu_backward(Context, const Tensor& dy, const Tensor& x, ops::Gelu kind, Tensor& dx) {
  if (kind == ops::Gelu::erf)
    map(dy, x, dx, [](auto g, auto v) { return g * (normal_cdf(v) + v * normal_density(v)); });
  else
    map(dy, x, dx, []<class T>(T g, T v) {
      const T s = math::sigmoid(twice_gelu_tanh_argument(v));
      const T slope = T(1.5957691216057308) * (T(1) + T(0.134145) * v * v);
      return g * (s + v * s * (T(1) - s) * slope);
    });
}

void silu_forward(Context, const Tensor& x, Tensor& y) {
  map(x, y, [](auto v) { return v * math::sigmoid(v); });
}

void silu_backward(Context, const Tensor& dy, const Tensor& x, Tensor& dx) {
  map(dy, x, dx, SiluGradient{});
}

void swiglu_forward(Context, const Tensor& gate, const Tensor& up, Tensor& y) {
  map(gate, up, y, [](auto g, auto u) { return g * math::sigmoid(g) * u; });
}

void swiglu_backward(Context, const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                     Tensor& dup) {
  if (!dgate.defined()) return map(dy, gate, dup, [](auto d, auto g) { return d * g * math::sigmoid(g); });
  with_float(gate.dtype(), [&]<class T>(T) {
    const T *pdy = dy.data<T>(), *pg = gate.data<T>(), *pu = up.data<T>();
    T *pdg = dgate.data<T>(), *pdu = dup.defined() ? dup.data<T>() : nullptr;
    parallel_elements(gate.numel(), [=](std::int64_t begin, std::int64_t end) {
      if (!pdu) {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) pdg[i] = SiluGradient{}(pdy[i] * pu[i], pg[i]);
        return;
      }
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const T d = pdy[i], g = pg[i], s = math::sigmoid(g);
        pdg[i] = d * pu[i] * s * (T(1) + g * (T(1) - s));
        pdu[i] = d * g * s;
      }
    });
  });
}

}  // namespace filigree::cpu
