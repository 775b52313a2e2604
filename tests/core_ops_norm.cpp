// Layer norm, RMS norm, softmax.
#include <gtest/gtest.h>

#include "tests/op_cases.h"

namespace filigree {
namespace {

constexpr double kEps = op_cases::kNormEps;

class Norm : public testing::TestWithParam<OpCase> {};
INSTANTIATE_TEST_SUITE_P(Ops, Norm, testing::ValuesIn(op_cases::norms()), op_case_name);

TEST_P(Norm, GradientsAgreeWithDifferences) {
  // A row of one element has x - mean = 0, and rows whose elements nearly agree make the function so curved
  // that differences at the usual step err by more than the tolerance.
  const OpCase& c = GetParam();
  Random random(test_seed(), 10);
  for (int i = 0; i < 24; ++i) {
    const auto inputs = c.inputs(random, random.shape(2, 5).append(i == 0 ? 1 : random.size(5, 19)));
    EXPECT_TRUE(gradients_agree(c.f, inputs)) << inputs[0].shape().str();
  }
}
TEST_P(Norm, SingleAgreesWithDouble) {
  const OpCase& c = GetParam();
  Random random(test_seed(), 11);
  for (int i = 0; i < 24; ++i)
    expect_f32_agrees(c, c.inputs(random, random.shape(2, 30).append(random.size(5, 300))));
}
TEST_P(Norm, SameBitsForAnyNumberOfThreads) {
  check_threads(GetParam());
}
TEST_P(Norm, MetaTakesTheSameMemory) {
  check_meta(GetParam());
}

// Two-pass formulas of the papers, row by row.
double reference_norm(const double* row, std::int64_t n, std::int64_t c, bool centred) {
  double mean = 0, variance = 0;
  for (std::int64_t i = 0; centred && i < n; ++i) mean += row[i] / static_cast<double>(n);
  for (std::int64_t i = 0; i < n; ++i) variance += (row[i] - mean) * (row[i] - mean) / static_cast<double>(n);
  return (row[c] - mean) / std::sqrt(variance + kEps);
}

TEST(NormValues, FollowTheFormulas) {
  Random random(test_seed(), 1);
  for (int i = 0; i < 20; ++i) {
    const std::int64_t rows = random.size(1, 9), n = random.size(1, 200);
    const Tensor x = random.normal({rows, n}), w = random.normal({n}), b = random.normal({n});
    const Tensor layer = ops::layer_norm(Var(x), Var(w), Var(b), kEps).value();
    const Tensor rms = ops::rms_norm(Var(x), Var(w), kEps).value();
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < n; ++c) {
        const double* row = x.data<double>() + r * n;
        const std::int64_t at = r * n + c;
        EXPECT_NEAR(layer.item(at), reference_norm(row, n, c, true) * w.item(c) + b.item(c), 1e-11);
        EXPECT_NEAR(rms.item(at), reference_norm(row, n, c, false) * w.item(c), 1e-11);
      }
  }
}

TEST(NormValues, ALargeMeanCostsNoPrecision) {
  Random random(test_seed(), 2);
  const std::int64_t n = 768;
  Tensor x = random.normal({4, n}, DType::f32);
  for (float& v : std::span(x.data<float>(), 4 * n)) v += 1000;
  const Var w(Tensor::full({n}, 1)), b(Tensor::zeros({n}));
  const Tensor y = ops::layer_norm(Var(x), w, b, 1e-5).value();
  const Var w64(w.value().to(DType::f64)), b64(b.value().to(DType::f64));
  EXPECT_LE(relative_error(y, ops::layer_norm(Var(x.to(DType::f64)), w64, b64, 1e-5).value(), 0), 1e-4);
}

TEST(SoftmaxValues, FollowTheFormula) {
  Random random(test_seed(), 3);
  for (const std::int64_t n : {1, 2, 31, 32, 33, 500}) {
    const Tensor x = random.normal({3, n}, DType::f64, 5);
    const Tensor y = ops::softmax(Var(x)).value();
    for (std::int64_t r = 0; r < 3; ++r) {
      double sum = 0;
      for (std::int64_t c = 0; c < n; ++c) sum += std::exp(x.item(r * n + c));
      for (std::int64_t c = 0; c < n; ++c)
        EXPECT_NEAR(y.item(r * n + c), std::exp(x.item(r * n + c)) / sum, 1e-14);
    }
  }
}

TEST(SoftmaxValues, InfinitiesAndNaN) {
  const float inf = INFINITY;
  const Tensor x = Tensor::of<float>(
      {4, 3}, std::vector<float>{-inf, -inf, -inf, -inf, 0, 0, 500, -500, 500, -inf, NAN, -inf});
  Var leaf(x, true);
  const Var y = ops::softmax(leaf);
  const std::vector<float> want{0, 0, 0, 0, 0.5f, 0.5f, 0.5f, 0, 0.5f};
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_EQ(y.value().item(static_cast<std::int64_t>(i)), want[i]);
  EXPECT_TRUE(std::isnan(y.value().item(10)));  // not hidden
  backward(y, Tensor::full({4, 3}, 3));
  for (std::int64_t i = 0; i < 3; ++i) EXPECT_EQ(leaf.grad().item(i), 0);
}

TEST(NormValues, EmptyTensors) {
  Var x(Tensor::empty({0, 4}), true), w(Tensor::full({4}, 1), true), b(Tensor::zeros({4}), true);
  backward(ops::layer_norm(x, w, b, kEps), Tensor::empty({0, 4}));
  EXPECT_EQ(w.grad().item(2), 0);
  EXPECT_EQ(b.grad().item(3), 0);
  EXPECT_EQ(ops::softmax(Var(Tensor::empty({2, 0}))).shape(), (Shape{2, 0}));
}

TEST(NormErrors, SayWhatIsWrong) {
  const Var x(Tensor::zeros({2, 3})), w(Tensor::zeros({2})), ok(Tensor::zeros({3}));
  EXPECT_THROW(ops::layer_norm(x, w, {}, kEps), Error);
  EXPECT_THROW(ops::layer_norm(x, ok, w, kEps), Error);
  EXPECT_THROW(ops::rms_norm(x, Var(Tensor::zeros({3}, DType::f64)), kEps), Error);
  EXPECT_THROW(ops::softmax(Var(Tensor::zeros({3}, DType::i32))), Error);
}

}  // namespace
}  // namespace filigree
