// Cross-entropy: known values, chunks, ignored and wrong targets, extreme logits.
#include <gtest/gtest.h>

#include <cmath>

#include "core/ops.h"
#include "core/parallel.h"
#include "tests/gradcheck.h"

namespace filigree {
namespace {

using std::int64_t;

Tensor targets_of(std::vector<std::int32_t> t) {
  return Tensor::of(Shape{static_cast<int64_t>(t.size())}, t);
}

TEST(CrossEntropy, KnownValues) {
  const Var uniform(Tensor::zeros({2, 8}, DType::f64));
  EXPECT_NEAR(ops::cross_entropy(uniform, targets_of({3, 7})).value().item(), std::log(8), 1e-15);
  const Var logits(Tensor::of<double>({2, 2}, {0, std::log(3), 5, 5}));
  EXPECT_NEAR(ops::cross_entropy(logits, targets_of({1, -100})).value().item(), -std::log(0.75), 1e-15);
  EXPECT_NEAR(ops::cross_entropy(logits, targets_of({0, 1})).value().item(), (std::log(4) + std::log(2)) / 2,
              1e-15);
}

TEST(CrossEntropy, AllIgnoredIsZeroWithZeroGradients) {
  Random random(test_seed(), 80);
  const Var x(random.normal({3, 4}), true), w(random.normal({5, 4}), true),
      logits(random.normal({3, 5}), true);
  const Tensor targets = targets_of({-100, -100, -100});
  const Var plain = ops::cross_entropy(logits, targets), fused = ops::linear_cross_entropy(x, w, {}, targets);
  EXPECT_EQ(plain.value().item(), 0);
  EXPECT_EQ(fused.value().item(), 0);
  backward(plain);
  backward(fused);
  for (const Var* v : {&x, &w, &logits})
    for (const double g : v->grad().values<double>()) EXPECT_EQ(g, 0);
}

template <class T>
void expect_extremes_are_finite() {
  const T big = std::is_same_v<T, float> ? T(1e30) : T(1e300);
  const Var logits(Tensor::of<T>({3, 3}, {big, -big, 0, -big, -big, -big, -INFINITY, 0, 0}), true);
  const Var loss = ops::cross_entropy(logits, targets_of({0, 2, 1}));
  EXPECT_NEAR(loss.value().item(), (0 + std::log(3) + std::log(2)) / 3, 1e-6);
  backward(loss);
  EXPECT_TRUE(ops::all_finite(logits.grad()));
  EXPECT_NEAR(logits.grad().item(3), 1.0 / 9, 1e-6);
  EXPECT_EQ(logits.grad().item(6), 0);
}

TEST(CrossEntropy, ExtremeLogits) {
  expect_extremes_are_finite<float>();
  expect_extremes_are_finite<double>();
}

TEST(CrossEntropy, NotANumberReachesTheLoss) {
  for (const int64_t where : {0, 40, 99}) {
    Tensor logits = Tensor::zeros({1, 100});
    logits.data<float>()[where] = NAN;
    EXPECT_TRUE(std::isnan(ops::cross_entropy(Var(logits), targets_of({5})).value().item()));
    const Var x(Tensor::full({1, 1}, 1)), w(logits.reshape({100, 1}), true);
    EXPECT_TRUE(std::isnan(ops::linear_cross_entropy(x, w, {}, targets_of({5})).value().item()));
  }
}

TEST(CrossEntropy, NamesTheWrongTarget) {
  const Var logits(Tensor::zeros({3, 4})), x(Tensor::zeros({3, 2})), w(Tensor::zeros({4, 2}));
  for (const std::int32_t wrong : {4, -1, -99, 1 << 30}) {
    const Tensor targets = targets_of({0, wrong, 3});
    const auto expect_data_error = [&](auto&& f) {
      try {
        f();
        ADD_FAILURE() << "target " << wrong << " was accepted";
      } catch (const Error& e) {
        EXPECT_EQ(e.kind(), ErrorKind::data);
        EXPECT_NE(std::string(e.what()).find(fmt::format("target {} at position 1", wrong)),
                  std::string::npos)
            << e.what();
      }
    };
    expect_data_error([&] { ops::cross_entropy(logits, targets); });
    expect_data_error([&] { ops::linear_cross_entropy(x, w, {}, targets); });
  }
}

TEST(CrossEntropy, RefusesWhatDoesNotFit) {
  const Var logits(Tensor::zeros({3, 4})), x(Tensor::zeros({3, 2})), w(Tensor::zeros({4, 2}));
  EXPECT_THROW(ops::cross_entropy(logits, targets_of({0, 1})), Error);
  EXPECT_THROW(ops::cross_entropy(logits, Tensor::zeros({3})), Error);
  EXPECT_THROW(ops::linear_cross_entropy(x, Var(Tensor::zeros({4, 3})), {}, targets_of({0, 1, 2})), Error);
  EXPECT_THROW(ops::linear_cross_entropy(x, w, Var(Tensor::zeros({2})), targets_of({0, 1, 2})), Error);
  EXPECT_THROW(ops::linear_cross_entropy(x, w, {}, targets_of({0, 1, 2}), Tensor::full({1}, 3)), Error);
}

struct Fused {
  Tensor loss, rows, dx, dw, db;
};

Fused run_fused(const Tensor& x0, const Tensor& w0, const Tensor& b0, const Tensor& targets,
                const Tensor& denominator) {
  const Var x(x0, true), w(w0, true), b(b0, true);
  Fused r;
  const Var loss = ops::linear_cross_entropy(x, w, b, targets, denominator, &r.rows);
  backward(loss, Tensor::full({1}, 0.25, x0.dtype()));
  r.loss = loss.value();
  r.dx = x.grad();
  r.dw = w.grad();
  r.db = b.grad();
  return r;
}

void expect_near(const Tensor& a, const Tensor& b, double tolerance) {
  ASSERT_EQ(a.shape(), b.shape());
  for (int64_t i = 0; i < a.numel(); ++i) ASSERT_NEAR(a.item(i), b.item(i), tolerance) << "element " << i;
}

// 50,021 classes in f64 make a chunk of 41 rows: three whole chunks and a part of a fourth.
TEST(LinearCrossEntropy, ChunksOfALargeVocabularyAddUp) {
  constexpr int64_t kRows = 130, kClasses = 50021;
  Random random(test_seed(), 81);
  const Tensor x = random.normal({kRows, 2}), w = random.normal({kClasses, 2}), b = random.normal({kClasses});
  Tensor targets = random.integers({kRows}, 0, kClasses - 1);
  for (const int64_t i : {0, 41, 82, 129}) targets.data<std::int32_t>()[i] = ops::kIgnoreIndex;
  const Fused fused = run_fused(x, w, b, targets, {});

  const Var xv(x, true), wv(w, true), bv(b, true);
  const Var loss = ops::cross_entropy(ops::linear(xv, wv, bv), targets);
  backward(loss, Tensor::full({1}, 0.25, DType::f64));
  EXPECT_NEAR(fused.loss.item(), loss.value().item(), 1e-12);
  expect_near(fused.dx, xv.grad(), 1e-14);
  expect_near(fused.dw, wv.grad(), 1e-14);
  expect_near(fused.db, bv.grad(), 1e-14);

  double sum = 0;
  for (const double v : fused.rows.values<double>()) sum += v;
  EXPECT_NEAR(sum / (kRows - 4), fused.loss.item(), 1e-11);
  EXPECT_EQ(fused.rows.item(41), 0);
}

TEST(LinearCrossEntropy, TheFullLogitsNeverExist) {
  constexpr int64_t kRows = 2000, kClasses = 40000;  // logits: 305 MiB
  Random random(test_seed(), 82);
  const Tensor x = random.normal({kRows, 4}, DType::f32), w = random.normal({kClasses, 4}, DType::f32);
  const Tensor targets = random.integers({kRows}, 0, kClasses - 1);
  allocator(Device::cpu()).reset_peak();
  const int64_t before = allocator(Device::cpu()).statistics().in_use;
  const Var wv(w, true), loss = ops::linear_cross_entropy(Var(x, true), wv, {}, targets);
  backward(loss);
  EXPECT_LE(allocator(Device::cpu()).statistics().peak_in_use - before, int64_t{18} << 20);
  EXPECT_TRUE(wv.grad().defined());
}

TEST(LinearCrossEntropy, SameBitsForAnyNumberOfThreadsAndInChunks) {
  constexpr int64_t kRows = 200, kClasses = 30011;
  Random random(test_seed(), 83);
  const Tensor x = random.normal({kRows, 9}, DType::f32), w = random.normal({kClasses, 9}, DType::f32);
  const Tensor b = random.normal({kClasses}, DType::f32), targets = random.integers({kRows}, 0, kClasses - 1);
  const int before = n_threads();
  std::vector<Fused> runs;
  for (const int threads : {1, 2, 3}) {
    set_n_threads(threads);
    runs.push_back(run_fused(x, w, b, targets, Tensor::full({1}, 123, DType::f64)));
  }
  set_n_threads(before);
  for (const auto& r : runs)
    for (const auto member : {&Fused::loss, &Fused::rows, &Fused::dx, &Fused::dw, &Fused::db})
      EXPECT_TRUE(std::ranges::equal((r.*member).values<float>(), (runs[0].*member).values<float>()));
}

TEST(LinearCrossEntropy, DenominatorDividesTheSum) {
  Random random(test_seed(), 84);
  const Var x(random.normal({4, 3})), w(random.normal({5, 3}));
  const Tensor targets = targets_of({1, -100, 4, 0});
  const double mean = ops::linear_cross_entropy(x, w, {}, targets).value().item();
  EXPECT_NEAR(ops::linear_cross_entropy(x, w, {}, targets, Tensor::full({1}, 12, DType::f64)).value().item(),
              mean * 3 / 12, 1e-14);
}

}  // namespace
}  // namespace filigree
