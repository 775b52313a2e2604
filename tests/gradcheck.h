// Gradient checks for every room's tests: backward() in fp64 against differences, under a random cotangent.
//
// The checked scalar is sum_i c_i y_i with fixed random c. A plain sum would hide bugs: it is constant for a
// softmax, whatever its backward says.
//
//   Random random(test_seed());
//   EXPECT_TRUE(gradients_agree([](const auto& v) { return ops::linear(v[0], v[1], v[2]); },
//                               {random.normal({5, 3}), random.normal({7, 3}), random.normal({7})}));
//
// For modules, whose parameters are leaves already: gradients_agree([&] { return module.forward(x); },
// leaves).
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "core/autograd.h"
#include "core/random.h"

namespace filigree {

// The seed of this run's random inputs: FILIGREE_TEST_SEED, or a fresh one, printed so that a failure can be
// repeated.
inline std::uint64_t test_seed() {
  static const std::uint64_t seed = [] {
    const char* given = std::getenv("FILIGREE_TEST_SEED");
    const std::uint64_t s = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::cout << "[ seed     ] FILIGREE_TEST_SEED=" << s << std::endl;
    return s;
  }();
  return seed;
}

// Random shapes and inputs from a seed.
class Random {
 public:
  explicit Random(std::uint64_t seed, std::uint32_t site = 0) : stream_(RandomKey{seed, site, 0}) {}

  RandomStream& stream() { return stream_; }
  std::int64_t range(std::int64_t low, std::int64_t high) { return stream_.range(low, high); }
  bool coin() { return stream_.below(2) == 0; }
  // A size in [low, high] that is often the smallest and often odd.
  std::int64_t size(std::int64_t low, std::int64_t high) {
    const auto kind = stream_.below(6);
    const std::int64_t n = stream_.range(low, high);
    if (kind == 0) return low;
    return kind < 4 && n % 2 == 0 && n < high ? n + 1 : n;
  }
  // 1 to max_rank dimensions of 1 to high.
  Shape shape(int max_rank, std::int64_t high) {
    Shape s;
    for (std::int64_t i = range(1, max_rank); i > 0; --i) s = s.append(size(1, high));
    return s;
  }
  Tensor normal(const Shape& shape, DType dtype = DType::f64, double deviation = 1) {
    Tensor t = Tensor::empty(shape, DType::f64);
    for (std::int64_t i = 0; i < t.numel(); ++i) t.data<double>()[i] = deviation * stream_.normal();
    return t.to(dtype);
  }
  Tensor uniform(const Shape& shape, double low, double high, DType dtype = DType::f64) {
    Tensor t = Tensor::empty(shape, DType::f64);
    for (std::int64_t i = 0; i < t.numel(); ++i) t.data<double>()[i] = low + (high - low) * stream_.uniform();
    return t.to(dtype);
  }
  Tensor integers(const Shape& shape, std::int64_t low, std::int64_t high) {  // i32 in [low, high]
    Tensor t = Tensor::empty(shape, DType::i32);
    for (std::int64_t i = 0; i < t.numel(); ++i)
      t.data<std::int32_t>()[i] = static_cast<std::int32_t>(stream_.range(low, high));
    return t;
  }

 private:
  RandomStream stream_;
};

struct GradcheckOptions {
  double tolerance = 1e-6;
  // Half the spacing of the differences. Their error is about step^4 f^(5) / 30 + 1e-16 f / step.
  double step = 5e-4;
  std::int64_t max_elements = 200;  // checked one by one per leaf; of a larger leaf a random choice
  std::uint64_t seed = 20260;       // of the cotangent and the choice
};

struct GradcheckResult {
  // The greatest |a - n| / max(|a|, |n|, floor) of a gradient element a and its difference n, where the floor
  // is 1e-3 of that leaf's greatest gradient, and at least 1e-4. Infinite where a gradient has a wrong shape.
  double worst = 0;
  std::string where;
};

// f is a function of `leaves`, whose values are changed in place and restored.
inline GradcheckResult gradcheck_leaves(const std::function<Var()>& f, std::vector<Var> leaves,
                                        const GradcheckOptions& options = {}) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  RandomStream stream(RandomKey{options.seed, 1, 0});
  for (auto& leaf : leaves) leaf.zero_grad();
  const Var y = f();
  if (y.dtype() != DType::f64) return {kInfinity, "the result is not f64"};
  Tensor cotangent = Tensor::empty_like(y.value());
  for (std::int64_t i = 0; i < y.numel(); ++i) cotangent.data<double>()[i] = stream.normal();
  if (y.requires_grad()) backward(y, cotangent);

  const auto evaluate = [&] {
    const NoGrad guard;
    return f().value().clone();  // it may be a view of a leaf
  };
  const auto difference = [&](double& x) {
    const double x0 = x, h = options.step * std::max(1.0, std::abs(x0));
    const auto at = [&](double offset) {
      x = x0 + offset;
      return evaluate();
    };
    const Tensor p1 = at(h), m1 = at(-h), p2 = at(2 * h), m2 = at(-2 * h);
    x = x0;
    double sum = 0;  // element by element, so that outputs that do not depend on x add no rounding error
    for (std::int64_t i = 0; i < p1.numel(); ++i) {
      const double near = p1.data<double>()[i] - m1.data<double>()[i];
      const double far = p2.data<double>()[i] - m2.data<double>()[i];
      sum += cotangent.data<double>()[i] * (8 * near - far);
    }
    return sum / (12 * h);
  };

  GradcheckResult result;
  for (std::size_t l = 0; l < leaves.size(); ++l) {
    Var& leaf = leaves[l];
    const bool none = !leaf.grad().defined();  // means zero
    if (!none && (leaf.grad().shape() != leaf.shape() || leaf.grad().dtype() != DType::f64))
      return {kInfinity, fmt::format("input {}: gradient of shape {} for a value of shape {}", l,
                                     leaf.grad().shape().str(), leaf.shape().str())};
    const std::int64_t n = leaf.numel(), n_checked = std::min(n, options.max_elements);
    std::vector<std::int64_t> elements;
    std::vector<double> analytic, numeric;
    double scale = 0;
    for (std::int64_t i = 0; i < n_checked; ++i) {
      const std::int64_t e = n == n_checked ? i : stream.range(0, n - 1);
      elements.push_back(e);
      analytic.push_back(none ? 0.0 : leaf.grad().data<double>()[e]);
      numeric.push_back(difference(leaf.value().data<double>()[e]));
      scale = std::max({scale, std::abs(analytic.back()), std::abs(numeric.back())});
    }
    for (std::size_t i = 0; i < elements.size(); ++i) {
      const double a = analytic[i], d = numeric[i];
      const double size = std::max({std::abs(a), std::abs(d), 1e-3 * scale, 1e-4});
      const double error = std::abs(a - d) / size;
      if (error <= result.worst) continue;
      result.worst = std::isnan(error) ? kInfinity : error;
      result.where = fmt::format("input {} {}, element {}: backward {:.12g}, differences {:.12g}", l,
                                 leaf.shape().str(), elements[i], a, d);
    }
  }
  return result;
}

using GradcheckFunction = std::function<Var(const std::vector<Var>&)>;

// Checks the gradient of every input, and that each is the same where it alone is wanted.
inline GradcheckResult gradcheck(const GradcheckFunction& f, const std::vector<Tensor>& inputs,
                                 const GradcheckOptions& options = {}) {
  std::vector<Var> leaves;
  for (const auto& t : inputs) leaves.emplace_back(t.clone(), true);
  GradcheckResult result = gradcheck_leaves([&] { return f(leaves); }, leaves, options);
  if (inputs.size() < 2 || !std::isfinite(result.worst)) return result;

  RandomStream stream(RandomKey{options.seed, 1, 0});
  Tensor cotangent;
  for (std::size_t l = 0; l < inputs.size(); ++l) {
    std::vector<Var> alone;
    for (std::size_t i = 0; i < inputs.size(); ++i) alone.emplace_back(leaves[i].value(), i == l);
    const Var y = f(alone);
    if (!y.requires_grad()) {
      if (leaves[l].grad().defined())
        return {std::numeric_limits<double>::infinity(), fmt::format("input {} alone is not recorded", l)};
      continue;
    }
    if (!cotangent.defined()) {
      cotangent = Tensor::empty_like(y.value());
      for (std::int64_t i = 0; i < y.numel(); ++i) cotangent.data<double>()[i] = stream.normal();
    }
    backward(y, cotangent);
    const Tensor &a = alone[l].grad(), &b = leaves[l].grad();
    if (a.defined() != b.defined())
      return {std::numeric_limits<double>::infinity(), fmt::format("input {} alone gets no gradient", l)};
    for (std::int64_t i = 0; a.defined() && i < a.numel(); ++i) {
      const double x = a.data<double>()[i], z = b.data<double>()[i];
      const double error = std::abs(x - z) / std::max({std::abs(x), std::abs(z), 1e-4});
      if (error <= result.worst) continue;
      result = {error,
                fmt::format("input {}, element {}: {:.12g} alone, {:.12g} with the others", l, i, x, z)};
    }
  }
  return result;
}

inline testing::AssertionResult gradcheck_assertion(const GradcheckResult& result, double tolerance) {
  if (result.worst <= tolerance) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "relative error " << result.worst << " at " << result.where;
}
inline testing::AssertionResult gradients_agree(const GradcheckFunction& f, const std::vector<Tensor>& inputs,
                                                const GradcheckOptions& options = {}) {
  return gradcheck_assertion(gradcheck(f, inputs, options), options.tolerance);
}
inline testing::AssertionResult gradients_agree(const std::function<Var()>& f, const std::vector<Var>& leaves,
                                                const GradcheckOptions& options = {}) {
  return gradcheck_assertion(gradcheck_leaves(f, leaves, options), options.tolerance);
}

}  // namespace filigree
