// From logits to a token: each filter by itself, and their order.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/gradcheck.h"
#include "train/generate/sampling.h"

namespace filigree {
namespace {

const float kOut = -INFINITY;

std::vector<float> logs(std::vector<double> probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

// Which tokens are left.
std::vector<int> kept(const std::vector<float>& logits) {
  std::vector<int> all;
  for (int i = 0; i < std::ssize(logits); ++i)
    if (logits[i] != kOut) all.push_back(i);
  return all;
}

std::vector<float> random_logits(Random& random, std::int64_t n) {
  std::vector<float> logits;
  for (std::int64_t i = 0; i < n; ++i) logits.push_back(static_cast<float>(2 * random.stream().normal()));
  return logits;
}

std::vector<double> softmax(const std::vector<float>& logits) {
  std::vector<double> p;
  for (const float logit : logits) p.push_back(std::exp(static_cast<double>(logit)));
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= total;
  return p;
}

TEST(Sampling, RepetitionPenaltyTakesEachTokenOnce) {
  std::vector<float> logits = {3, -2, 1, 0};
  const std::vector<std::int32_t> text = {0, 1, 0, 3};
  apply_repetition_penalty(logits, text, 2);
  EXPECT_EQ(logits, (std::vector<float>{1.5, -4, 1, 0}));
}

TEST(Sampling, TemperatureDividesDifferences) {
  std::vector<float> logits = {3, 1, 0};
  apply_temperature(logits, 0.5);
  EXPECT_FLOAT_EQ(logits[0] - logits[1], 4);
  EXPECT_FLOAT_EQ(logits[1] - logits[2], 2);
  apply_temperature(logits, 1e-40);
  EXPECT_EQ(likeliest(logits), 0);
  EXPECT_EQ(draw(logits, 0.999), 0);
}

TEST(Sampling, TopKKeepsTheLargestAndTies) {
  std::vector<float> logits = {1, 5, 3, 3, 2};
  keep_top_k(logits, 2);
  EXPECT_EQ(kept(logits), (std::vector<int>{1, 2, 3}));
  keep_top_k(logits, 1);
  EXPECT_EQ(kept(logits), (std::vector<int>{1}));
  std::vector<float> few = {1, 2};
  keep_top_k(few, 7);
  EXPECT_EQ(kept(few).size(), 2u);
}

TEST(Sampling, TopPKeepsTheFewestThatReachIt) {
  const std::vector<double> p = {0.1, 0.5, 0.25, 0.15};
  const auto left = [&](double top) {
    std::vector<float> logits = logs(p);
    keep_top_p(logits, top);
    return kept(logits);
  };
  EXPECT_EQ(left(0.01), (std::vector<int>{1}));
  EXPECT_EQ(left(0.49), (std::vector<int>{1}));
  EXPECT_EQ(left(0.51), (std::vector<int>{1, 2}));
  EXPECT_EQ(left(0.76), (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(left(0.95), (std::vector<int>{0, 1, 2, 3}));
  std::vector<float> equal(4, 1.f);
  keep_top_p(equal, 0.5);
  EXPECT_EQ(kept(equal), (std::vector<int>{0, 1}));
}

TEST(Sampling, MinPIsAShareOfTheLikeliest) {
  std::vector<float> logits = logs({0.1, 0.5, 0.26, 0.14});
  keep_min_p(logits, 0.5);
  EXPECT_EQ(kept(logits), (std::vector<int>{1, 2}));
  keep_min_p(logits, 1);
  EXPECT_EQ(kept(logits), (std::vector<int>{1}));
}

// The definition of the two, on random logits.
TEST(Sampling, FiltersHoldTheirDefinitions) {
  Random random(test_seed(), 51);
  for (int i = 0; i < 200; ++i) {
    const std::vector<float> logits = random_logits(random, random.range(1, 30));
    const std::vector<double> p = softmax(logits);
    const double top = random.stream().uniform();
    std::vector<float> left = logits;
    keep_top_p(left, top);
    double inside = 0, least = 1;
    for (std::size_t t = 0; t < p.size(); ++t) {
      if (left[t] == kOut) continue;
      inside += p[t];
      least = std::min(least, p[t]);
    }
    EXPECT_GE(inside, top - 1e-9);
    EXPECT_TRUE(kept(left).size() == 1 || inside - least < top + 1e-9) << "one too many";
    for (std::size_t t = 0; t < p.size(); ++t) EXPECT_TRUE(left[t] != kOut || p[t] <= least);
    left = logits;
    keep_min_p(left, top);
    const double largest = std::ranges::max(p);
    for (std::size_t t = 0; t < p.size(); ++t)
      EXPECT_TRUE(std::abs(p[t] - top * largest) < 1e-9 || (left[t] != kOut) == (p[t] > top * largest));
  }
}

// Every token gets its share of [0, 1), in order.
TEST(Sampling, DrawsFollowTheProbabilities) {
  Random random(test_seed(), 52);
  for (int i = 0; i < 50; ++i) {
    std::vector<float> logits = random_logits(random, random.range(1, 20));
    keep_top_k(logits, 10);
    const std::vector<double> p = softmax(logits);
    double below = 0;
    for (int t = 0; t < std::ssize(p); ++t) {
      if (p[t] > 1e-6) {
        EXPECT_EQ(draw(logits, below + 0.01 * p[t]), t);
        EXPECT_EQ(draw(logits, below + 0.99 * p[t]), t);
      }
      below += p[t];
    }
    EXPECT_NE(logits[draw(logits, 1 - 1e-17)], kOut);
  }
}

TEST(Sampling, ChoosesInTheOrderOfHuggingFace) {
  SamplingOptions options;
  options.top_k = 0;
  const std::vector<std::int32_t> text = {0};
  // The penalty comes first: what was likeliest is so no more.
  options.repetition_penalty = 4;
  options.temperature = 0;
  EXPECT_EQ(choose_token(std::vector<float>{2, 1, 0}, text, options, 0.5), 1);
  // Temperature before top-p: at 0.25 the likeliest has 0.98 of the probability, at 1 only 0.73.
  options = {.repetition_penalty = 1, .temperature = 0.25, .top_k = 0, .top_p = 0.9};
  EXPECT_EQ(choose_token(std::vector<float>{1, 0}, {}, options, 0.999), 0);
  options.temperature = 1;
  EXPECT_EQ(choose_token(std::vector<float>{1, 0}, {}, options, 0.999), 1);
  // Top-k before top-p: of the two that are left, the likeliest alone reaches 0.5.
  options = {.repetition_penalty = 1, .temperature = 1, .top_k = 2, .top_p = 0.5};
  const std::vector<float> logits = logs({0.28, 0.24, 0.24, 0.24});
  options.top_k = 1;
  EXPECT_EQ(choose_token(logits, {}, options, 0.999), 0);
  options.top_k = 0;
  EXPECT_EQ(choose_token(logits, {}, options, 0.999), 1);
  // All off: the plain softmax.
  options = {.repetition_penalty = 1, .temperature = 1, .top_k = 0};
  EXPECT_EQ(choose_token(logits, {}, options, 0.999), 3);
}

}  // namespace
}  // namespace filigree
