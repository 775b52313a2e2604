// The checker itself: it passes a right backward and catches wrong ones of many kinds.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/gradcheck.h"

namespace filigree {
namespace {

enum class Bug {
  none,
  wrong_sign,
  missing_factor,
  missing_fan_out,
  transposed,
  one_element,
  ignores_cotangent,
  no_gradient,
  wrong_shape,
  depends_on_who_asks,
  not_recorded
};

// y = x (x w), n x n matrices; the backward has the bug.
Var product(const Var& x, const Var& w, Bug bug) {
  using Matrix = std::vector<double>;
  const std::int64_t n = x.dim(0);
  const auto multiply = [n](const Matrix& a, bool ta, const Matrix& b, bool tb) {
    Matrix c(a.size());
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t k = 0; k < n; ++k)
          c[i * n + j] += a[ta ? k * n + i : i * n + k] * b[tb ? j * n + k : k * n + j];
    return c;
  };
  const auto matrix = [](const Tensor& t) {
    return Matrix(t.values<double>().begin(), t.values<double>().end());
  };
  const auto tensor = [n](const Matrix& m) { return Tensor::of(Shape{n, n}, m); };
  const Matrix a = matrix(x.value()), b = matrix(w.value()), ab = multiply(a, false, b, false);
  const Tensor y = tensor(multiply(a, false, ab, false));
  if (bug == Bug::not_recorded) return Var(y);
  const bool both = x.requires_grad() && w.requires_grad();
  return make_result("product", y, {x, w}, [=](const Tensor& dy) -> std::vector<Tensor> {
    Matrix g = matrix(dy);
    if (bug == Bug::ignores_cotangent) std::ranges::fill(g, 1.0);
    const Matrix left = multiply(g, false, ab, bug != Bug::transposed);
    const Matrix ag = multiply(a, true, g, false), right = multiply(ag, false, b, true);
    Matrix dx(g.size()), dw = multiply(a, true, ag, false);
    for (std::size_t i = 0; i < g.size(); ++i) dx[i] = left[i] + (bug == Bug::missing_fan_out ? 0 : right[i]);
    if (bug == Bug::wrong_sign)
      for (auto& v : dw) v = -v;
    if (bug == Bug::missing_factor || (bug == Bug::depends_on_who_asks && !both))
      for (auto& v : dw) v *= 0.999;
    if (bug == Bug::one_element) dx.back() += 1e-4 * std::abs(*std::ranges::max_element(dx));
    if (bug == Bug::wrong_shape) return {tensor(dx), tensor(dw).reshape({n * n})};
    return {tensor(dx), bug == Bug::no_gradient ? Tensor{} : tensor(dw)};
  });
}

GradcheckResult check_product(Bug bug, std::int64_t n, Random& random) {
  return gradcheck([bug](const auto& v) { return product(v[0], v[1], bug); },
                   {random.normal({n, n}), random.normal({n, n})});
}

TEST(Gradcheck, PassesARightBackward) {
  Random random(test_seed(), 1);
  for (const std::int64_t n : {1, 2, 3, 5, 8}) {
    const auto result = check_product(Bug::none, n, random);
    EXPECT_LE(result.worst, 1e-8) << result.where;
  }
}

class GradcheckCatches : public testing::TestWithParam<Bug> {};

TEST_P(GradcheckCatches, Bug) {
  Random random(test_seed(), 2);
  for (const std::int64_t n : {3, 4, 7}) {
    const auto result = check_product(GetParam(), n, random);
    EXPECT_GT(result.worst, 1e-5) << "n = " << n;
    EXPECT_FALSE(result.where.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Bugs, GradcheckCatches,
                         testing::Values(Bug::wrong_sign, Bug::missing_factor, Bug::missing_fan_out,
                                         Bug::transposed, Bug::one_element, Bug::ignores_cotangent,
                                         Bug::no_gradient, Bug::wrong_shape, Bug::depends_on_who_asks,
                                         Bug::not_recorded));

// The gradient of sum(softmax(x)) is 0: with a plain sum a backward that returns nothing would pass.
TEST(Gradcheck, SeesThroughConstantSums) {
  Random random(test_seed(), 3);
  const auto softmax = [](const std::vector<Var>& v) {
    Tensor y = v[0].value().clone();
    double sum = 0;
    for (std::int64_t i = 0; i < y.numel(); ++i) sum += std::exp(y.data<double>()[i]);
    for (std::int64_t i = 0; i < y.numel(); ++i) y.data<double>()[i] = std::exp(y.data<double>()[i]) / sum;
    return make_result("softmax", y, {v[0]}, [](const Tensor&) { return std::vector<Tensor>{Tensor{}}; });
  };
  EXPECT_GT(gradcheck(softmax, {random.normal({6})}).worst, 0.5);
}

TEST(Gradcheck, ChecksLeavesOfAModule) {
  Random random(test_seed(), 4);
  const Var x(random.normal({4, 4}), true), w(random.normal({4, 4}), true);
  const auto f = [&](Bug bug) { return [&, bug] { return product(x, w, bug); }; };
  EXPECT_TRUE(gradients_agree(f(Bug::none), {x, w}));
  EXPECT_FALSE(gradients_agree(f(Bug::wrong_sign), {x, w}));
}

TEST(Gradcheck, ReportsNaN) {
  Random random(test_seed(), 5);
  Tensor x = random.normal({3, 3});
  x.data<double>()[4] = std::nan("");
  EXPECT_FALSE(gradients_agree([](const auto& v) { return product(v[0], v[1], Bug::none); },
                               {x, random.normal({3, 3})}));
}

}  // namespace
}  // namespace filigree
