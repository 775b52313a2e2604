#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/random.h"
#include "tests/gradcheck.h"

namespace filigree {
namespace {

// Known answers of Random123's philox4x32-10.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, Uniform01IsExactAndBelowOne) {
  EXPECT_EQ(uniform01(0), 0.0f);
  EXPECT_EQ(uniform01(0x80000000u), 0.5f);
  EXPECT_EQ(uniform01(0xffffffffu), 1.0f - 0x1p-24f);
}

TEST(RandomStream, ReadsTheBlocksOfItsKey) {
  const RandomKey key{test_seed(), 3, 9};
  RandomStream stream(key);
  for (std::uint64_t block = 0; block < 5; ++block)
    for (const std::uint32_t expected : key.block(block)) EXPECT_EQ(stream.next(), expected);
}

TEST(RandomStream, KeysAreDifferentStreams) {
  std::vector<std::uint32_t> first;
  for (const RandomKey key : {RandomKey{1, 0, 0}, {2, 0, 0}, {1ull << 32, 0, 0}, {1, 1, 0}, {1, 0, 1}})
    first.push_back(RandomStream(key).next());
  std::ranges::sort(first);
  EXPECT_EQ(std::ranges::adjacent_find(first), first.end());
}

TEST(RandomStream, BelowIsUniformAndInRange) {
  RandomStream stream(test_seed());
  for (const std::uint32_t n : {1u, 2u, 7u, 0xc0000001u}) {
    constexpr int kDraws = 20000;
    int lower = 0;
    for (int i = 0; i < kDraws; ++i) {
      const std::uint32_t x = stream.below(n);
      ASSERT_LT(x, n);
      lower += x < (n + 1) / 2;
    }
    const double p = static_cast<double>((n + 1) / 2) / n;
    EXPECT_NEAR(lower, kDraws * p, 6 * std::sqrt(kDraws * p * (1 - p)) + 1e-9) << "n = " << n;
  }
}

TEST(RandomStream, NormalHasTheRightMoments) {
  RandomStream stream(test_seed());
  constexpr int kDraws = 100000;
  double moments[4] = {};
  for (int i = 0; i < kDraws; ++i) {
    const double x = stream.normal();
    for (double power = x, *m = moments; m < moments + 4; ++m, power *= x) *m += power / kDraws;
  }
  // Six standard deviations of each mean: sqrt(E x^2k - (E x^k)^2) / sqrt(n).
  const double deviation = 6 / std::sqrt(double{kDraws});
  EXPECT_NEAR(moments[0], 0, deviation);
  EXPECT_NEAR(moments[1], 1, std::sqrt(2) * deviation);
  EXPECT_NEAR(moments[2], 0, std::sqrt(15) * deviation);
  EXPECT_NEAR(moments[3], 3, std::sqrt(96) * deviation);
}

TEST(RandomStream, UniformIsInsideTheOpenInterval) {
  RandomStream stream(test_seed());
  for (int i = 0; i < 10000; ++i) {
    const double x = stream.uniform();
    ASSERT_GT(x, 0);
    ASSERT_LT(x, 1);
  }
}

}  // namespace
}  // namespace filigree
