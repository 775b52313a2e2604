// Errors of the f32 functions in units in the last place, over sweeps of all bit patterns.
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "core/cpu/vector_math.h"
#include "tests/gradcheck.h"

namespace filigree::cpu {
namespace {

using Array = std::vector<float>;

struct Function {
  const char* name;
  std::function<Array(const Array&)> vectorised;  // a loop that the compiler vectorises
  float (*scalar)(float);
  double (*exact)(double);
  double max_ulp;
};

template <class F>
Array apply(const Array& x, F f) {
  Array y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = f(x[i]);
  return y;
}

const std::vector<Function>& functions() {
  static const std::vector<Function> all{
      {"exp", [](const Array& x) { return apply(x, [](float v) { return math::exp(v); }); },
       [](float v) { return math::exp(v); }, [](double v) { return std::exp(v); }, 1.1},
      {"log", [](const Array& x) { return apply(x, [](float v) { return math::log(v); }); },
       [](float v) { return math::log(v); }, [](double v) { return std::log(v); }, 1.0},
      {"erf", [](const Array& x) { return apply(x, [](float v) { return math::erf(v); }); },
       [](float v) { return math::erf(v); }, [](double v) { return std::erf(v); }, 3.3},
      {"sigmoid", [](const Array& x) { return apply(x, [](float v) { return math::sigmoid(v); }); },
       [](float v) { return math::sigmoid(v); }, [](double v) { return 1 / (1 + std::exp(-v)); }, 2.6},
  };
  return all;
}

// |y - exact| in units of the last place of the f32 nearest to exact; results that ought to be subnormal may
// be 0.
double ulp_error(float y, double exact) {
  const float nearest = static_cast<float>(exact);
  if (std::isnan(nearest) || std::isinf(nearest)) {
    const bool same = std::isnan(nearest) ? std::isnan(y) : y == nearest;
    return same ? 0 : INFINITY;
  }
  if (std::abs(exact) < 0x1p-126 && y == 0) return 0;
  const float size = std::abs(nearest);
  const double ulp = static_cast<double>(std::nextafter(size, INFINITY)) - size;
  const double error = std::abs(y - exact) / (std::isinf(ulp) ? 0x1p104 : ulp);
  return std::isnan(error) ? INFINITY : error;
}

void sweep(std::uint64_t step) {
  for (const auto& f : functions()) {
    double worst = 0;
    float where = 0;
    Array x;
    for (std::uint64_t bits = test_seed() % step; bits < 1ull << 32;) {
      x.clear();
      for (; bits < 1ull << 32 && x.size() < 4099; bits += step)
        x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
      const Array y = f.vectorised(x);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double error = ulp_error(y[i], f.exact(x[i]));
        if (error > worst) worst = error, where = x[i];
      }
    }
    EXPECT_LE(worst, f.max_ulp) << f.name << " at " << where;
    std::cout << f.name << ": " << worst << " ulp at " << where << '\n';
  }
}

TEST(VectorMath, IsAccurateToAFewUlp) {
  sweep(2047);
}

TEST(VectorMathSlow, IsAccurateToAFewUlp) {
  sweep(251);
}

TEST(VectorMath, DoesNotDependOnThePosition) {
  Random random(test_seed(), 1);
  for (const auto& f : functions()) {
    const Tensor t = random.normal({1003}, DType::f32, 4);
    const Array x(t.data<float>(), t.data<float>() + t.numel());
    const Array y = f.vectorised(x);
    for (std::size_t length = 1; length < 70; ++length) {
      const std::size_t begin = random.stream().below(900);
      const Array part = f.vectorised(Array(x.begin() + begin, x.begin() + begin + length));
      for (std::size_t i = 0; i < length; ++i) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(part[i]), std::bit_cast<std::uint32_t>(y[begin + i]))
            << f.name;
        ASSERT_EQ(std::bit_cast<std::uint32_t>(f.scalar(x[begin + i])),
                  std::bit_cast<std::uint32_t>(y[begin + i]))
            << f.name << " of " << x[begin + i];
      }
    }
  }
}

TEST(VectorMath, SpecialValues) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  EXPECT_EQ(math::exp(-infinity), 0.0f);
  EXPECT_EQ(math::exp(-104.0f), 0.0f);
  EXPECT_EQ(math::exp(-1e30f), 0.0f);
  EXPECT_EQ(math::exp(0.0f), 1.0f);
  EXPECT_EQ(math::exp(-0.0f), 1.0f);
  EXPECT_TRUE(std::isfinite(math::exp(88.72f)));
  EXPECT_EQ(math::exp(88.8f), infinity);
  EXPECT_EQ(math::exp(1e30f), infinity);
  EXPECT_EQ(math::exp(infinity), infinity);
  EXPECT_EQ(math::log(1.0f), 0.0f);
  EXPECT_EQ(math::log(0.0f), -infinity);
  EXPECT_EQ(math::log(-0.0f), -infinity);
  EXPECT_EQ(math::log(infinity), infinity);
  EXPECT_TRUE(std::isnan(math::log(-1.0f)));
  EXPECT_TRUE(std::isnan(math::log(-infinity)));
  EXPECT_TRUE(std::signbit(math::erf(-0.0f)));
  EXPECT_EQ(math::erf(infinity), 1.0f);
  EXPECT_EQ(math::erf(-infinity), -1.0f);
  EXPECT_EQ(math::sigmoid(0.0f), 0.5f);
  EXPECT_EQ(math::sigmoid(infinity), 1.0f);
  EXPECT_EQ(math::sigmoid(-infinity), 0.0f);
  for (const auto& f : functions()) EXPECT_TRUE(std::isnan(f.scalar(nan))) << f.name;
}

}  // namespace
}  // namespace filigree::cpu
