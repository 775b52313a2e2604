// matmul and linear against plain loops, and what they refuse.
#include <gtest/gtest.h>

#include "core/ops.h"
#include "tests/gradcheck.h"

namespace filigree {
namespace {

using std::int64_t;

TEST(Matmul, EqualsTheLoopForEveryTransposeAndBatch) {
  Random random(test_seed(), 70);
  for (int round = 0; round < 40; ++round) {
    const bool ta = random.coin(), tb = random.coin();
    const int64_t batch = random.size(1, 20), m = random.size(1, 20), n = random.size(1, 20),
                  k = random.size(0, 20);
    const Tensor a = random.normal(ta ? Shape{batch, k, m} : Shape{batch, m, k});
    const Tensor b = random.normal(tb ? Shape{batch, n, k} : Shape{batch, k, n});
    const Tensor y = ops::matmul(Var(a), Var(b), ta, tb).value();
    ASSERT_EQ(y.shape(), (Shape{batch, m, n}));
    for (int64_t i = 0; i < batch * m * n; ++i) {
      const int64_t z = i / (m * n), row = i / n % m, column = i % n;
      double sum = 0;
      for (int64_t p = 0; p < k; ++p)
        sum += a.item(z * m * k + (ta ? p * m + row : row * k + p)) *
               b.item(z * k * n + (tb ? column * k + p : p * n + column));
      ASSERT_NEAR(y.item(i), sum, 1e-12) << "batch " << batch << ", " << m << "x" << n << "x" << k;
    }
  }
}

TEST(Matmul, RefusesWhatDoesNotFit) {
  const auto var = [](const Shape& s, DType t = DType::f32) { return Var(Tensor::zeros(s, t)); };
  EXPECT_THROW(ops::matmul(var({2, 3}), var({2, 3})), Error);
  EXPECT_NO_THROW(ops::matmul(var({2, 3}), var({2, 3}), false, true));
  EXPECT_THROW(ops::matmul(var({3}), var({3, 2})), Error);
  EXPECT_THROW(ops::matmul(var({2, 2, 3}), var({3, 3, 2})), Error);
  EXPECT_THROW(ops::matmul(var({2, 3}), var({3, 2}, DType::f64)), Error);
  EXPECT_THROW(ops::matmul(var({2, 3}, DType::bf16), var({3, 2}, DType::bf16)), Error);
  try {
    ops::matmul(var({2, 3}), var({2, 5}), true);
    ops::matmul(var({2, 3}), var({2, 5}));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()), "[matmul] [2, 3] times [2, 5]");
  }
}

TEST(Linear, IsMatmulPlusBias) {
  Random random(test_seed(), 71);
  for (int round = 0; round < 20; ++round) {
    const int64_t rows = random.size(1, 30), in = random.size(1, 30), out = random.size(1, 30);
    const Var x(random.normal({rows, in})), w(random.normal({out, in})), b(random.normal({out}));
    const Tensor y = ops::linear(x, w, b).value(), z = ops::add(ops::matmul(x, w, false, true), b).value();
    const Tensor plain = ops::linear(x, w).value(), product = ops::matmul(x, w, false, true).value();
    for (int64_t i = 0; i < y.numel(); ++i) {
      ASSERT_NEAR(y.item(i), z.item(i), 1e-12);
      ASSERT_NEAR(plain.item(i), product.item(i), 1e-12);
    }
  }
}

// What decoding relies on: a text gets the same bits alone and beside others.
TEST(Linear, AFewRowsAreTheSameAloneAndTogether) {
  Random random(test_seed(), 72);
  for (int round = 0; round < 20; ++round) {
    const int64_t rows = random.range(1, 8), in = random.size(1, 300), out = random.size(1, 300);
    for (const DType type : {DType::f32, DType::f64}) {
      const Tensor x = random.normal({rows, in}, type);
      const Var w(random.normal({out, in}, type)), b(random.normal({out}, type));
      const Tensor together = ops::linear(Var(x), w, b).value();
      for (int64_t r = 0; r < rows; ++r) {
        const Tensor alone = ops::linear(Var(x.slice(r, r + 1)), w, b).value();
        for (int64_t i = 0; i < out; ++i) ASSERT_EQ(alone.item(i), together.item(r * out + i));
      }
    }
  }
}

TEST(Linear, RefusesWhatDoesNotFit) {
  const auto var = [](const Shape& s) { return Var(Tensor::zeros(s)); };
  EXPECT_THROW(ops::linear(var({2, 3}), var({4, 2})), Error);
  EXPECT_THROW(ops::linear(var({2, 3}), var({4, 3}), var({3})), Error);
  EXPECT_THROW(ops::linear(var({2, 3}), var({3})), Error);
  EXPECT_EQ(ops::linear(var({3}), var({4, 3})).shape(), (Shape{4}));
}

// What is not needed for the wanted gradients is not kept.
TEST(Linear, KeepsOnlyWhatItsBackwardNeeds) {
  const Tensor x = Tensor::zeros({64, 64}), w = Tensor::zeros({64, 64}), b = Tensor::zeros({64});
  {
    const Var y = ops::linear(Var(x), Var(w, true), Var(b));
    EXPECT_FALSE(x.unique());
    EXPECT_TRUE(w.unique());
  }
  {
    const Var y = ops::linear(Var(x, true), Var(w), Var(b));
    EXPECT_TRUE(x.unique());
    EXPECT_FALSE(w.unique());
  }
  const Var y = ops::linear(Var(x), Var(w), Var(b, true));
  EXPECT_TRUE(x.unique() && w.unique());
}

}  // namespace
}  // namespace filigree
