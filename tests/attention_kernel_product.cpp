// The tile kernels' building blocks: products of panels, 2^x and masks, against plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "attention/cpu/tile_product.h"
#include "tests/gradcheck.h"

namespace filigree::cpu {
namespace {

template <class T>
class TileKernel : public testing::Test {};
using Floats = testing::Types<float, double>;
TYPED_TEST_SUITE(TileKernel, Floats);

// A rows x columns matrix in panels, with a spare line after each.
template <class T>
struct Panels {
  std::int64_t rows, columns, stride = (rows + 1) * kLine<T>;
  std::vector<T> data = std::vector<T>(static_cast<std::size_t>(columns / kLine<T> * stride));
  T& at(std::int64_t r, std::int64_t c) {
    return data[static_cast<std::size_t>(c / kLine<T> * stride + r * kLine<T> + c % kLine<T>)];
  }
};

template <class T>
Panels<T> random_panels(Random& random, std::int64_t rows, std::int64_t columns) {
  Panels<T> m{rows, columns};
  for (auto& x : m.data) x = static_cast<T>(random.stream().normal());
  return m;
}

template <bool kTransposed, class T>
void check_product(Random& random, Update update) {
  constexpr int L = kLine<T>;
  const std::int64_t m = 16 * random.range(1, 4), n = L * random.range(1, 4);
  const int pieces = static_cast<int>(random.range(1, 3)), chunks = static_cast<int>(random.range(1, 4));
  const std::int64_t k = std::int64_t{pieces} * chunks * L;
  SCOPED_TRACE(fmt::format("m={} n={} k={} pieces={} transposed={} update={}", m, n, k, pieces, kTransposed,
                           static_cast<int>(update)));
  // The right operand's pieces lie in reverse order.
  std::vector<Panels<T>> b;
  for (int i = 0; i < pieces; ++i) b.push_back(random_panels<T>(random, k / pieces, n));
  std::vector<const T*> b_data;
  for (int i = pieces; i-- > 0;) b_data.push_back(b[static_cast<std::size_t>(i)].data.data());
  Panels<T> a = kTransposed ? random_panels<T>(random, k, m) : random_panels<T>(random, m, k);
  if (kTransposed) {  // the chunks of a transposed operand follow each other without spare lines: k lines a
                      // panel
    a.stride = k * L;
    a.data.resize(static_cast<std::size_t>(m / L * a.stride));
  }
  Panels<T> c = random_panels<T>(random, m, n);
  Panels<T> before = c;
  const std::vector<T> row_scale(static_cast<std::size_t>(m), T(0.25));
  tile_product<kTransposed, T>(m, n, {a.data.data(), a.stride}, {b_data.data(), b[0].stride, pieces, chunks},
                               {c.data.data(), c.stride}, update, row_scale.data());
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = update == Update::assign ? 0 : update == Update::add ? 1 : 0.25;
      sum *= before.at(i, j);
      for (std::int64_t l = 0; l < k; ++l) {
        const std::int64_t rows = k / pieces;
        sum += double(kTransposed ? a.at(l, i) : a.at(i, l)) *
               b[static_cast<std::size_t>(pieces - 1 - l / rows)].at(l % rows, j);
      }
      ASSERT_NEAR(c.at(i, j), sum, std::numeric_limits<T>::epsilon() * 40 * std::sqrt(double(k)))
          << i << ", " << j;
    }
}

TYPED_TEST(TileKernel, ProductsOfPanels) {
  Random random(test_seed());
  for (int i = 0; i < 30; ++i) {
    const auto update = static_cast<Update>(i % 3);
    check_product<false, TypeParam>(random, update);
    check_product<true, TypeParam>(random, update);
    if (testing::Test::HasFailure()) return;
  }
}

TYPED_TEST(TileKernel, PowersOfTwo) {
  using T = TypeParam;
  constexpr bool kSingle = sizeof(T) == 4;
  const double low = kSingle ? -125 : -1021, high = kSingle ? 127 : 1023;
  Random random(test_seed());
  double worst = 0;
  for (int i = 0; i < 20000; ++i) {
    const T x = static_cast<T>(low + (high - low) * random.stream().uniform());
    const double y = exp2<T>(broadcast(x))[i % kLanes<T>], truth = std::exp2(double(x));
    worst = std::max(worst, std::abs(y - truth) / truth);
  }
  EXPECT_LE(worst, kSingle ? 2.5e-7 : 5e-16);
  const T infinity = std::numeric_limits<T>::infinity();
  EXPECT_EQ(exp2<T>(broadcast(T(0)))[0], 1);
  EXPECT_EQ(exp2<T>(broadcast(-infinity))[0], 0);
  EXPECT_EQ(exp2<T>(broadcast(T(low - 0.5)))[0], 0);
  EXPECT_EQ(exp2<T>(broadcast(std::numeric_limits<T>::lowest()))[0], 0);
  EXPECT_TRUE(std::isnan(exp2<T>(broadcast(std::numeric_limits<T>::quiet_NaN()))[0]));
}

TYPED_TEST(TileKernel, TransposesSquares) {
  using T = TypeParam;
  Vector<T> square[kLanes<T>];
  for (int r = 0; r < kLanes<T>; ++r) square[r] = iota<T>() + T(100 * r);
  transpose<T>(square);
  for (int r = 0; r < kLanes<T>; ++r)
    for (int c = 0; c < kLanes<T>; ++c) EXPECT_EQ(square[r][c], 100 * c + r);
}

TYPED_TEST(TileKernel, KeepsTheLanesOfSetBits) {
  using T = TypeParam;
  Random random(test_seed());
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t bits = std::uint64_t{random.stream().next()} << 32 | random.stream().next();
    const Vector<T> kept = keep<T>(bits, iota<T>(), broadcast(T(-1)));
    for (int lane = 0; lane < kLanes<T>; ++lane) EXPECT_EQ(kept[lane], bits >> lane & 1 ? lane : -1);
  }
}

}  // namespace
}  // namespace filigree::cpu
