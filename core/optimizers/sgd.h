// Gradient descent, plain and with momentum:
//   g += weight_decay w;  u = momentum u + g;  w = w - lr u
#pragma once

#include <array>
#include <cstdint>

namespace filigree {

struct Sgd {
  static constexpr std::array<const char*, 0> kState = {};

  std::array<double, 3> rates(double lr, std::int64_t) const { return {lr, 0, 0}; }

  template <class T>
  struct Update {
    T scale, decay, lr;

    constexpr void operator()(auto, T grad, T& w) const { w -= lr * (grad * scale + decay * w); }
  };
  template <class T>
  constexpr Update<T> update(auto, const double* rates, double scale, double lr_factor,
                             double weight_decay) const {
    return {static_cast<T>(scale), static_cast<T>(weight_decay), static_cast<T>(rates[0] * lr_factor)};
  }
};

struct MomentumSgd {
  static constexpr std::array<const char*, 1> kState = {"m"};
  double momentum = 0.9;

  std::array<double, 3> rates(double lr, std::int64_t) const { return {lr, 0, 0}; }

  template <class T>
  struct Update {
    T scale, decay, lr, momentum;

    constexpr void operator()(auto, T grad, T& w, T& u) const {
      u = momentum * u + (grad * scale + decay * w);
      w -= lr * u;
    }
  };
  template <class T>
  constexpr Update<T> update(auto, const double* rates, double scale, double lr_factor,
                             double weight_decay) const {
    return {static_cast<T>(scale), static_cast<T>(weight_decay), static_cast<T>(rates[0] * lr_factor),
            static_cast<T>(momentum)};
  }
};

}  // namespace filigree
