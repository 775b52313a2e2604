// One op under the checks that every op must pass: a table of OpCases makes a parametrised test short.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "tests/gradcheck.h"

namespace filigree {

struct OpCase {
  std::string name;
  // Makes f64 inputs from a random shape.
  std::function<std::vector<Tensor>(Random&, const Shape&)> inputs;
  GradcheckFunction f;
  double f32_error =
      2e-6;  // of results and gradients, relative to the greatest of each tensor (to 0.1 at least)
};

inline void PrintTo(const OpCase& c, std::ostream* out) {
  *out << c.name;
}
inline std::string op_case_name(const testing::TestParamInfo<OpCase>& info) {
  return info.param.name;
}

inline bool bitwise_equal(const Tensor& a, const Tensor& b) {
  if (a.defined() != b.defined()) return false;
  return !a.defined() || (a.shape() == b.shape() && a.dtype() == b.dtype() &&
                          std::memcmp(a.raw_data(), b.raw_data(), static_cast<std::size_t>(a.bytes())) == 0);
}

// max |a - b| / max(floor, max |b|); NaN counts as infinite.
inline double relative_error(const Tensor& a, const Tensor& b, double floor) {
  const Tensor a64 = a.to(DType::f64), b64 = b.to(DType::f64);
  double worst = 0, scale = floor;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double difference = std::abs(a64.data<double>()[i] - b64.data<double>()[i]);
    worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
    scale = std::max(scale, std::abs(b64.data<double>()[i]));
  }
  return worst / scale;
}

// The result, then the gradient of each input, under a random cotangent.
inline std::vector<Tensor> run_op(const OpCase& c, const std::vector<Tensor>& inputs, DType dtype,
                                  Device device = Device::cpu()) {
  std::vector<Var> leaves;
  for (const auto& t : inputs) leaves.emplace_back(t.to(dtype).to(device), true);
  const Var y = c.f(leaves);
  Random random(99);
  backward(y, random.normal(y.shape(), DType::f32).to(dtype).to(device));
  std::vector<Tensor> results{y.value()};
  for (const auto& leaf : leaves) results.push_back(leaf.grad());
  return results;
}

inline void check_gradients(const OpCase& c) {
  Random random(test_seed(), 10);
  for (int i = 0; i < 24; ++i) {
    const auto inputs = c.inputs(random, i == 0 ? Shape{1} : random.shape(3, 7));
    EXPECT_TRUE(gradients_agree(c.f, inputs)) << inputs[0].shape().str();
  }
}

// Results and gradients in f32 against those in f64. Inputs and cotangents are of size 1, so a sum of n of
// their products has the rounding errors of sqrt(n), even where, in a tensor of few elements, all happen to
// be near 0.
inline void expect_f32_agrees(const OpCase& c, std::vector<Tensor> inputs) {
  for (auto& t : inputs) t = t.to(DType::f32);
  const auto single = run_op(c, inputs, DType::f32), exact = run_op(c, inputs, DType::f64);
  std::int64_t largest = 0;
  for (const Tensor& t : exact) largest = std::max(largest, t.numel());
  for (std::size_t t = 0; t < exact.size(); ++t) {
    const double terms =
        static_cast<double>(largest) / static_cast<double>(std::max<std::int64_t>(1, exact[t].numel()));
    EXPECT_LE(relative_error(single[t], exact[t], 0.1 * std::sqrt(terms)), c.f32_error)
        << (t ? "gradient " + std::to_string(t - 1) : "result") << ' ' << inputs[0].shape().str();
  }
}

inline void check_f32(const OpCase& c) {
  Random random(test_seed(), 11);
  for (int i = 0; i < 24; ++i) expect_f32_agrees(c, c.inputs(random, random.shape(3, 40)));
}

inline void check_threads(const OpCase& c) {
  Random random(test_seed(), 12);
  for (const Shape& shape : {Shape{3, 131, 173}, Shape{40001}, Shape{20011, 3}, Shape{2, 40009}}) {
    const auto inputs = c.inputs(random, shape);
    set_n_threads(1);
    const auto one = run_op(c, inputs, DType::f32);
    for (const int n : {2, 3}) {
      set_n_threads(n);
      const auto many = run_op(c, inputs, DType::f32);
      for (std::size_t t = 0; t < one.size(); ++t)
        EXPECT_TRUE(bitwise_equal(one[t], many[t])) << n << " threads, tensor " << t << ' ' << shape.str();
    }
  }
  set_n_threads(0);
}

// On meta the op has the same shapes and takes the same memory.
inline void check_meta(const OpCase& c) {
  Random random(test_seed(), 13);
  const auto inputs = c.inputs(random, {3, 65, 33});
  const auto peak = [&](Device device) {
    std::vector<Tensor> there;
    for (const auto& t : inputs) there.push_back(t.to(DType::f32).to(device));
    allocator(device).reset_peak();
    const std::int64_t before = allocator(device).statistics().in_use;
    std::vector<Shape> shapes;
    {
      std::vector<Var> leaves;
      for (const auto& t : there) leaves.emplace_back(t, true);
      const Var y = c.f(leaves);
      backward(y, Tensor::empty_like(y.value()));
      shapes.push_back(y.shape());
      for (const auto& leaf : leaves) shapes.push_back(leaf.grad().shape());
    }
    return std::pair(allocator(device).statistics().peak_in_use - before, shapes);
  };
  EXPECT_EQ(peak(Device::meta()), peak(Device::cpu()));
}

}  // namespace filigree
