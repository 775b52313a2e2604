// What the ops that move elements, sum them and look them up return, and what they refuse.
#include <gtest/gtest.h>

#include <array>

#include "core/ops.h"
#include "tests/gradcheck.h"
#include "tests/test_ops.h"

namespace filigree {
namespace {

using std::int64_t;

// 0, 1, 2, ...
Var counting(const Shape& shape) {
  Tensor t = Tensor::empty(shape);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(i);
  return Var(t);
}

void expect_values(const Var& v, const Shape& shape, const std::vector<float>& values) {
  EXPECT_EQ(v.shape(), shape);
  const auto got = v.value().values<float>();
  EXPECT_EQ(std::vector<float>(got.begin(), got.end()), values);
}

TEST(ShapeOps, KnownValues) {
  expect_values(ops::reshape(counting({2, 3}), {-1, 2}), {3, 2}, {0, 1, 2, 3, 4, 5});
  expect_values(ops::slice(counting({3, 2}), 1, 2), {1, 2}, {2, 3});
  expect_values(ops::permute(counting({2, 3}), std::array{1, 0}), {3, 2}, {0, 3, 1, 4, 2, 5});
  expect_values(ops::permute(counting({2, 1, 2, 2}), std::array{2, 0, 1, 3}), {2, 2, 1, 2},
                {0, 1, 4, 5, 2, 3, 6, 7});
  expect_values(ops::repeat_heads(counting({1, 1, 2, 2}), 2), {1, 1, 4, 2}, {0, 1, 0, 1, 2, 3, 2, 3});
  const auto parts = ops::split_last(counting({2, 3}), std::array<int64_t, 2>{1, 2});
  expect_values(parts[0], {2, 1}, {0, 3});
  expect_values(parts[1], {2, 2}, {1, 2, 4, 5});
  expect_values(ops::concat_last(std::array{parts[1], parts[0]}), {2, 3}, {1, 2, 0, 4, 5, 3});
}

TEST(ShapeOps, PermuteThereAndBackIsTheIdentity) {
  Random random(test_seed(), 90);
  for (int round = 0; round < 20; ++round) {
    const Var x(random.normal(random.shape(6, 4)));
    std::vector<int> order, inverse(static_cast<std::size_t>(x.rank()));
    for (int i = 0; i < x.rank(); ++i) order.insert(order.begin() + random.range(0, i), i);
    for (int i = 0; i < x.rank(); ++i)
      inverse[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = i;
    const Var y = ops::permute(ops::permute(x, order), inverse);
    EXPECT_TRUE(std::ranges::equal(x.value().values<double>(), y.value().values<double>()));
  }
}

TEST(ShapeOps, RefuseWhatDoesNotFit) {
  const Var x = counting({2, 3});
  EXPECT_THROW(ops::reshape(x, {4}), Error);
  EXPECT_THROW(ops::slice(x, 1, 3), Error);
  EXPECT_THROW(ops::slice(x, -1, 1), Error);
  EXPECT_THROW(ops::permute(x, std::array{0, 0}), Error);
  EXPECT_THROW(ops::permute(x, std::array{0}), Error);
  EXPECT_THROW(ops::permute(x, std::array{0, 2}), Error);
  EXPECT_THROW(ops::repeat_heads(x, 2), Error);
  EXPECT_THROW(ops::repeat_heads(counting({1, 1, 1, 1}), 0), Error);
  EXPECT_THROW(ops::split_last(x, std::array<int64_t, 2>{1, 1}), Error);
  EXPECT_THROW(ops::split_last(x, std::array<int64_t, 2>{4, -1}), Error);
  EXPECT_THROW(ops::concat_last(std::vector<Var>{}), Error);
  EXPECT_THROW(ops::concat_last(std::array{x, counting({3, 3})}), Error);
}

TEST(Reductions, KnownValues) {
  expect_values(ops::sum(counting({2, 3})), {1}, {15});
  expect_values(ops::sum(counting({0, 3})), {1}, {0});
  expect_values(ops::sum_last(counting({2, 3})), {2}, {3, 12});
  const Tensor bounds = Tensor::of<std::int32_t>({2, 2}, {1, 3, 2, 2});
  expect_values(ops::mean_rows(counting({2, 3, 2}), bounds), {2, 2}, {3, 4, 0, 0});
  for (const auto& wrong : {std::vector<std::int32_t>{0, 4}, {-1, 2}, {2, 1}})
    EXPECT_THROW(ops::mean_rows(counting({1, 3, 2}), Tensor::of(Shape{1, 2}, wrong)), Error);
}

// 2^24 + 1 is no f32: a plain running sum would stop there.
TEST(Reductions, LongSumsAreAccurate) {
  const Tensor ones = Tensor::full({(1 << 24) + 4096}, 1);
  EXPECT_EQ(ops::sum(Var(ones)).value().item(), (1 << 24) + 4096);
}

TEST(Embedding, LooksUpRowsAndSumsTheirGradients) {
  const Var table(counting({3, 2}).value(), true);
  const Tensor ids = Tensor::of<std::int32_t>({2, 2}, {2, 0, 2, 2});
  const Var y = ops::embedding(table, ids);
  expect_values(y, {2, 2, 2}, {4, 5, 0, 1, 4, 5, 4, 5});
  backward(y, Tensor::of<float>({2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8}));
  expect_values(Var(table.grad()), {3, 2}, {3, 4, 0, 0, 13, 16});
}

TEST(Embedding, NamesTheWrongId) {
  const Var table(Tensor::zeros({3, 2}));
  for (const std::int32_t wrong : {3, -1, -100}) try {
      ops::embedding(table, Tensor::of<std::int32_t>({4}, {0, 1, wrong, 2}));
      ADD_FAILURE() << "id " << wrong << " was accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::data);
      EXPECT_NE(std::string(e.what()).find(fmt::format("id {} at position 2", wrong)), std::string::npos)
          << e.what();
    }
  EXPECT_THROW(ops::embedding(table, Tensor::zeros({4})), Error);
  EXPECT_THROW(ops::embedding(counting({3}), Tensor::zeros({4}, DType::i32)), Error);
}

TEST(InPlace, ArithmeticAndScans) {
  Random random(test_seed(), 91);
  for (const int64_t n : {0, 1, 7, 16384, 50001}) {
    const Tensor x = random.normal({n}, DType::f32), y = random.normal({n}, DType::f32);
    Tensor z = x.clone();
    ops::add_in_place(z, y);
    ops::scale_in_place(z, 3);
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_EQ(z.item(i), (x.values<float>()[i] + y.values<float>()[i]) * 3.0f);
      squares += x.item(i) * x.item(i);
    }
    EXPECT_NEAR(ops::sum_of_squares(x), squares, 1e-12 * squares);
    EXPECT_TRUE(ops::all_finite(x));
    for (const double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}})
      if (n > 0)
        for (const DType type : {DType::f32, DType::f64}) {
          Tensor t = x.to(type).clone();
          const int64_t where = random.range(0, n - 1);
          t.slice(where, where + 1).copy_from(Tensor::full({1}, bad, type));
          EXPECT_FALSE(ops::all_finite(t)) << bad << " at " << where << " of " << n;
        }
  }
  Tensor t = Tensor::zeros({2});
  EXPECT_THROW(ops::add_in_place(t, Tensor::zeros({3})), Error);
  EXPECT_THROW(ops::add_in_place(t, Tensor::zeros({2}, DType::f64)), Error);
  EXPECT_TRUE(ops::all_finite(Tensor::full({2}, std::numeric_limits<float>::max())));
}

}  // namespace
}  // namespace filigree
