// Rotary positions: the definition by complex numbers and the properties that follow from it.
#include <gtest/gtest.h>

#include <complex>

#include "tests/op_cases.h"

namespace filigree {
namespace {

TEST(Rope, GradientsAgreeWithDifferences) {
  check_gradients(op_cases::rope());
}
TEST(Rope, SingleAgreesWithDouble) {
  check_f32(op_cases::rope());
}
TEST(Rope, SameBitsForAnyNumberOfThreads) {
  check_threads(op_cases::rope());
}
TEST(Rope, MetaTakesTheSameMemory) {
  check_meta(op_cases::rope());
}

TEST(Rope, MultipliesPairsByUnitComplexNumbers) {
  Random random(test_seed(), 1);
  for (int i = 0; i < 20; ++i) {
    const std::int64_t B = random.size(1, 4), N = random.size(1, 200), H = random.size(1, 3);
    const std::int64_t half = random.size(1, 8), n0 = random.range(0, 100000);
    const double theta = random.coin() ? 10000 : 500000;
    const Tensor x = random.normal({B, N, H, 2 * half});
    const Tensor y = ops::rope(Var(x), theta, n0).value();
    const Tensor y32 = ops::rope(Var(x.to(DType::f32)), theta, n0).value();
    for (std::int64_t row = 0; row < B * N * H; ++row)
      for (std::int64_t p = 0; p < half; ++p) {
        const double position = static_cast<double>(n0 + row / H % N);
        const double angle = position * std::pow(theta, -static_cast<double>(p) / static_cast<double>(half));
        const std::int64_t a = row * 2 * half + p, b = a + half;
        const auto turned = std::complex(x.item(a), x.item(b)) * std::polar(1.0, angle);
        ASSERT_NEAR(y.item(a), turned.real(), 1e-10) << "row " << row << " pair " << p;
        ASSERT_NEAR(y.item(b), turned.imag(), 1e-10) << "row " << row << " pair " << p;
        ASSERT_NEAR(y32.item(a), turned.real(), 2e-6) << "row " << row << " pair " << p;
        ASSERT_NEAR(y32.item(b), turned.imag(), 2e-6) << "row " << row << " pair " << p;
      }
  }
}

// <rope(q) at i, rope(k) at j> depends on i - j alone.
TEST(Rope, ScoresDependOnTheDistance) {
  Random random(test_seed(), 2);
  const std::int64_t D = 16;
  const Var q(random.normal({1, 1, 1, D})), k(random.normal({1, 1, 1, D}));
  const auto score = [&](std::int64_t i, std::int64_t j) {
    const Tensor a = ops::rope(q, 10000, i).value(), b = ops::rope(k, 10000, j).value();
    double dot = 0;
    for (std::int64_t d = 0; d < D; ++d) dot += a.item(d) * b.item(d);
    return dot;
  };
  for (int trial = 0; trial < 20; ++trial) {
    const std::int64_t i = random.range(0, 5000), j = random.range(0, 5000), shift = random.range(0, 5000);
    EXPECT_NEAR(score(i, j), score(i + shift, j + shift), 1e-9);
  }
  EXPECT_GT(std::abs(score(5, 3) - score(3, 5)), 1e-6);
}

TEST(Rope, RowsAreThoseOfShiftedCalls) {
  Random random(test_seed(), 3);
  const Tensor x = random.normal({1, 300, 2, 8}, DType::f32);
  const Tensor whole = ops::rope(Var(x), 10000, 7).value();
  for (const std::int64_t n : {0, 63, 64, 65, 299}) {
    const Tensor row = x.reshape({300, 16}).slice(n, n + 1).clone().reshape({1, 1, 2, 8});
    const Tensor alone = ops::rope(Var(row), 10000, 7 + n).value();
    EXPECT_LE(relative_error(alone, whole.reshape({300, 16}).slice(n, n + 1).reshape({1, 1, 2, 8}), 0), 1e-6);
  }
}

TEST(Rope, RefusesOddHeads) {
  EXPECT_THROW(ops::rope(Var(Tensor::zeros({1, 2, 3, 5}))), Error);
  EXPECT_THROW(ops::rope(Var(Tensor::zeros({2, 3, 4}))), Error);
  EXPECT_THROW(ops::rope(Var(Tensor::zeros({1, 2, 3, 4})), -1), Error);
  EXPECT_EQ(ops::rope(Var(Tensor::zeros({2, 0, 3, 4}))).shape(), (Shape{2, 0, 3, 4}));
}

}  // namespace
}  // namespace filigree
