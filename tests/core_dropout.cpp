// Dropout: which elements go is a function of the key alone, forward and backward.
#include <gtest/gtest.h>

#include "tests/op_cases.h"

namespace filigree {
namespace {

constexpr RandomKey kKey = op_cases::kDropoutKey;

Tensor mask_of(const Shape& shape, double p, RandomKey key) {
  return ops::dropout(Var(Tensor::full(shape, 1)), p, key).value();
}

TEST(Dropout, DrawIDecidesElementI) {
  for (const double p : {0.1, 0.5, 0.9}) {
    const std::int64_t n = 40003;
    const Tensor y = mask_of({n}, p, kKey);
    RandomStream stream(kKey);
    const float kept = static_cast<float>(1 / (1 - p));
    for (std::int64_t i = 0; i < n; ++i) {
      const bool drop = stream.next() < p * 0x1p32;
      ASSERT_EQ(y.data<float>()[i], drop ? 0.0f : kept) << i;
    }
  }
}

// Of n draws, n p +- 5 sqrt(n p (1 - p)) are dropped; neighbours and streams are uncorrelated.
TEST(Dropout, Statistics) {
  const std::int64_t n = 1 << 20;
  const double p = 0.2, deviation = std::sqrt(n * p * (1 - p)), both = std::sqrt(n * p * p * (1 - p * p));
  const Tensor a = mask_of({n}, p, kKey);
  const auto dropped = [](const Tensor& t, std::int64_t i) { return t.data<float>()[i] == 0; };
  for (const RandomKey& key : {RandomKey{43, 7, 9}, RandomKey{42, 8, 9}, RandomKey{42, 7, 10}}) {
    const Tensor b = mask_of({n}, p, key);
    double count = 0, with_a = 0, neighbours = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      count += dropped(b, i);
      with_a += dropped(a, i) && dropped(b, i);
      neighbours += dropped(b, i) && dropped(b, (i + 1) % n);
    }
    EXPECT_NEAR(count, n * p, 5 * deviation);
    EXPECT_NEAR(with_a, n * p * p, 5 * both);
    EXPECT_NEAR(neighbours, n * p * p, 6 * both);
  }
}

TEST(Dropout, BackwardUsesTheMaskOfForward) {
  Random random(test_seed(), 1);
  for (int i = 0; i < 24; ++i) {
    const Shape shape = i == 0 ? Shape{33000} : random.shape(3, 9);
    Var x(random.normal(shape), true);
    const Tensor mask = mask_of(shape, 0.3, kKey);
    const Var y = ops::dropout(x, 0.3, kKey);
    const Tensor dy = random.normal(shape);
    backward(y, dy);
    for (std::int64_t e = 0; e < x.numel(); ++e) {
      const double factor = mask.item(e) == 0 ? 0 : 1 / 0.7;
      ASSERT_DOUBLE_EQ(y.value().item(e), x.value().item(e) * factor);
      ASSERT_DOUBLE_EQ(x.grad().item(e), dy.item(e) * factor);
    }
  }
}

TEST(Dropout, GradientsAgreeWithDifferences) {
  check_gradients(op_cases::dropout());
}
TEST(Dropout, SingleAgreesWithDouble) {
  check_f32(op_cases::dropout());
}
TEST(Dropout, SameBitsForAnyNumberOfThreads) {
  check_threads(op_cases::dropout());
}
TEST(Dropout, MetaTakesTheSameMemory) {
  check_meta(op_cases::dropout());
}

TEST(Dropout, RepeatsAndEdges) {
  EXPECT_TRUE(bitwise_equal(mask_of({1001}, 0.5, kKey), mask_of({1001}, 0.5, kKey)));
  const Var x(Tensor::full({5}, 3));
  EXPECT_TRUE(ops::dropout(x, 0, kKey).value().shares_storage(x.value()));
  EXPECT_THROW(ops::dropout(x, 1, kKey), Error);
  EXPECT_THROW(ops::dropout(x, -0.1, kKey), Error);
  EXPECT_THROW(ops::dropout(x, NAN, kKey), Error);
  EXPECT_EQ(mask_of({0}, 0.5, kKey).numel(), 0);
}

}  // namespace
}  // namespace filigree
