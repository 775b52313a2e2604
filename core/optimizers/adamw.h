// Adam with decoupled weight decay (Loshchilov & Hutter 2019):
//   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   w = w - lr (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay w)
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace filigree {

struct AdamW {
  static constexpr std::array<const char*, 2> kState = {"m", "v"};
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;

  std::array<double, 3> rates(double lr, std::int64_t step) const {
    const auto count = static_cast<double>(step);
    return {lr, 1 - std::pow(beta1, count), 1 - std::pow(beta2, count)};
  }

  template <class T>
  struct Update {
    T scale, beta1, beta2, rest1, rest2, keep, rate, root, eps;

    constexpr void operator()(auto math, T grad, T& w, T& m, T& v) const {
      const T g = grad * scale;
      m = beta1 * m + rest1 * g;
      v = beta2 * v + rest2 * (g * g);
      w = keep * w - rate * m / (math.sqrt(v) * root + eps);
    }
  };
  template <class T>
  constexpr Update<T> update(auto math, const double* rates, double scale, double lr_factor,
                             double weight_decay) const {
    const double lr = rates[0] * lr_factor;
    return {static_cast<T>(scale),
            static_cast<T>(beta1),
            static_cast<T>(beta2),
            static_cast<T>(1 - beta1),
            static_cast<T>(1 - beta2),
            static_cast<T>(1 - lr * weight_decay),
            static_cast<T>(lr / rates[1]),
            static_cast<T>(1 / math.sqrt(rates[2])),
            static_cast<T>(eps)};
  }
};

}  // namespace filigree
