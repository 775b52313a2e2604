#include <gtest/gtest.h>

#include "core/autograd.h"
#include "core/ops.h"
#include "tests/gradcheck.h"

namespace filigree {
namespace {

using std::int64_t;

Var leaf(Random& random, const Shape& shape) {
  return Var(random.normal(shape), true);
}

void expect_same_bits(const Tensor& a, const Tensor& b) {
  ASSERT_TRUE(a.defined() && b.defined());
  EXPECT_TRUE(std::ranges::equal(a.values<double>(), b.values<double>()));
}

TEST(Autograd, FanOutAccumulates) {
  Random random(test_seed(), 60);
  for (int round = 0; round < 20; ++round)
    EXPECT_TRUE(gradients_agree(
        [](const auto& v) {
          const Var y = ops::mul(v[0], v[0]);
          return ops::add(ops::add(y, v[0]), ops::mul(y, v[0]));
        },
        {random.normal(random.shape(3, 5))}));
}

TEST(Autograd, DiamondsAndLongPathsMeet) {
  Random random(test_seed(), 61);
  for (int round = 0; round < 20; ++round) {
    const int64_t n = random.size(1, 5);
    EXPECT_TRUE(gradients_agree(
        [](const auto& v) {
          const Var top = ops::matmul(v[0], v[1]);
          Var left = top;
          for (int i = 0; i < 5; ++i) left = ops::sigmoid(ops::add(left, v[1]));  // the deep side
          const Var right = ops::scale(top, 0.5);
          return ops::matmul(left, ops::add(right, left));
        },
        {random.normal({n, n}), random.normal({n, n})}));
  }
}

TEST(Autograd, GradientsAddOverCallsUntilCleared) {
  Var x(Tensor::of<double>({2}, {3, 5}), true);
  for (int call = 1; call <= 3; ++call) {
    backward(ops::sum(ops::mul(x, x)));
    EXPECT_EQ(x.grad().item(0), 6 * call);
    EXPECT_EQ(x.grad().item(1), 10 * call);
  }
  x.zero_grad();
  EXPECT_FALSE(x.grad().defined());
}

// Backwards may hand out the same tensor twice; adding to one must not change the other.
TEST(Autograd, SharedGradientsAreNotOverwritten) {
  const Var a(Tensor::of<double>({1}, {2}), true), b(Tensor::of<double>({1}, {7}), true);
  Tensor seed = Tensor::of<double>({1}, {1});
  const Var s = ops::add(a, b);
  backward(ops::add(s, ops::scale(a, 10)), seed);
  EXPECT_EQ(a.grad().item(), 11);
  EXPECT_EQ(b.grad().item(), 1);
  EXPECT_EQ(seed.item(), 1);
}

TEST(Autograd, LeavesThatNeedNoneGetNone) {
  Random random(test_seed(), 62);
  const Var x = leaf(random, {3}), constant(random.normal({3}));
  const Var y = ops::mul(x, constant);
  EXPECT_TRUE(y.requires_grad());
  EXPECT_FALSE(ops::mul(constant, constant).requires_grad());
  backward(ops::sum(y));
  expect_same_bits(x.grad(), constant.value());
  EXPECT_THROW(constant.grad(), std::logic_error);
  EXPECT_FALSE(x.detach().requires_grad());
  EXPECT_TRUE(x.detach().value().shares_storage(x.value()));
}

TEST(Autograd, UnusedOutputsGetNoGradient) {
  const Var x(Tensor::of<double>({1, 2}, {1, 2}), true);
  const std::array<int64_t, 2> sizes{1, 1};
  const auto parts = ops::split_last(x, sizes);
  backward(parts[1]);
  EXPECT_EQ(x.grad().item(0), 0);
  EXPECT_EQ(x.grad().item(1), 1);
}

TEST(Autograd, NoGradRecordsNothing) {
  Random random(test_seed(), 63);
  const Var x = leaf(random, {3});
  {
    const NoGrad guard;
    EXPECT_FALSE(grad_enabled());
    {
      const NoGrad nested;
      EXPECT_FALSE(ops::exp(x).requires_grad());
    }
    EXPECT_FALSE(ops::exp(x).requires_grad());
  }
  EXPECT_TRUE(grad_enabled());
  EXPECT_TRUE(ops::exp(x).requires_grad());
}

TEST(Autograd, RefusesWhatHasNoMeaning) {
  Random random(test_seed(), 64);
  const Var x = leaf(random, {3});
  EXPECT_THROW(backward(Var(random.normal({1}))), Error);          // depends on nothing
  EXPECT_THROW(backward(ops::exp(x)), Error);                      // not a scalar
  EXPECT_THROW(backward(ops::exp(x), random.normal({2})), Error);  // seed of another shape
  const Var loss = ops::sum(ops::exp(x));
  backward(loss);
  EXPECT_THROW(backward(loss), Error);  // its tape is gone
}

// A chain of n ops on `elements` numbers each.
Var chain(Var x, int n) {
  for (int i = 0; i < n; ++i) x = ops::sigmoid(ops::scale(x, 0.9));
  return x;
}

TEST(Autograd, TheTapeIsFreedDuringBackward) {
  constexpr int64_t kElements = 1 << 16, kBytes = kElements * 8;
  Allocator& memory = allocator(Device::cpu());
  const int64_t before = memory.statistics().in_use;
  const Var x(Tensor::full({kElements}, 0.5, DType::f64), true);
  {
    const Var loss = ops::sum(chain(x, 20));
    const int64_t recorded = memory.statistics().in_use - before;
    EXPECT_LE(recorded, 22 * kBytes) << "more is kept than x and the output of each sigmoid";
    memory.reset_peak();
    backward(loss);
    // Beside the tape at most three gradients live at once: backward frees as it goes.
    EXPECT_LE(memory.statistics().peak_in_use - before, recorded + 3 * kBytes);
    EXPECT_LE(memory.statistics().in_use - before, 2 * kBytes + 4096) << "x, its gradient and the loss";
  }
  EXPECT_LE(memory.statistics().in_use - before, 2 * kBytes);
}

TEST(Autograd, WithoutARecordNothingIsKept) {
  constexpr int64_t kElements = 1 << 16, kBytes = kElements * 8;
  Allocator& memory = allocator(Device::cpu());
  const int64_t before = memory.statistics().in_use;
  memory.reset_peak();
  const Var y = chain(Var(Tensor::full({kElements}, 0.5, DType::f64)), 20);
  EXPECT_LE(memory.statistics().peak_in_use - before, 3 * kBytes);
  EXPECT_EQ(memory.statistics().in_use - before, kBytes);
}

// Freeing an abandoned tape recurses along it: this is some ten times the depth of a large model.
TEST(Autograd, LongTapesAreFreed) {
  const Var x(Tensor::full({1}, 0.5, DType::f64), true);
  { const Var y = chain(x, 10000); }
  backward(ops::sum(chain(x, 10000)));
  EXPECT_TRUE(x.grad().defined());
}

TEST(Checkpoint, EqualsThePlainRunBitForBit) {
  Random random(test_seed(), 65);
  const Tensor x0 = random.normal({5, 4});
  const Var w(random.normal({4, 4}), true), b(random.normal({4}), true);
  const auto block = [&](const Var& x) {
    return ops::add(x, ops::dropout(ops::gelu(ops::linear(x, w, b)), 0.3, RandomKey{1, 2, 3}));
  };
  const Tensor seed = random.normal({5, 4});
  const auto run = [&](bool checkpointed, bool wanted) {
    Var x(x0, wanted), w1 = w, b1 = b;
    w1.zero_grad();
    b1.zero_grad();
    Var y = x;
    for (int i = 0; i < 3; ++i) y = checkpointed ? checkpoint(block, y) : block(y);
    backward(y, seed);
    std::vector<Tensor> result{y.value(), w.grad(), b.grad()};
    if (wanted) result.push_back(x.grad());
    return result;
  };
  for (const bool wanted : {true, false}) {
    const auto plain = run(false, wanted), checkpointed = run(true, wanted);
    for (std::size_t i = 0; i < plain.size(); ++i) expect_same_bits(plain[i], checkpointed[i]);
  }
}

TEST(Checkpoint, KeepsOnlyTheInput) {
  constexpr int64_t kElements = 1 << 16, kBytes = kElements * 8;
  Allocator& memory = allocator(Device::cpu());
  const int64_t before = memory.statistics().in_use;
  const Var x(Tensor::full({kElements}, 0.5, DType::f64), true);
  const Var y = checkpoint([](const Var& v) { return chain(v, 20); }, x);
  EXPECT_EQ(memory.statistics().in_use - before, 2 * kBytes);  // x and y
}

TEST(Checkpoint, WithoutGradientsIsJustTheFunction) {
  const NoGrad guard;
  const Var x(Tensor::full({3}, 0.5, DType::f64), true);
  const Var y = checkpoint([](const Var& v) { return chain(v, 2); }, x);
  expect_same_bits(y.value(), chain(x, 2).value());
  EXPECT_FALSE(y.requires_grad());
}

TEST(Checkpoint, NestsAndPassesTheGradientCheck) {
  Random random(test_seed(), 66);
  for (int round = 0; round < 20; ++round)
    EXPECT_TRUE(gradients_agree(
        [](const auto& v) {
          const auto inner = [w = v[1]](const Var& x) { return ops::sigmoid(ops::mul(x, w)); };
          const auto outer = [inner](const Var& x) { return ops::mul(checkpoint(inner, ops::exp(x)), x); };
          return checkpoint(outer, v[0]);
        },
        {random.normal({4, 3}), random.normal({4, 3})}));
}

}  // namespace
}  // namespace filigree
