#include "train/generate/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_set>

namespace filigree {
namespace {

constexpr float kExcluded = -std::numeric_limits<float>::infinity();

// e^(logit - largest): probabilities but for their common factor.
double weight(float logit, float largest) {
  return std::exp(static_cast<double>(logit) - largest);
}

}  // namespace

void apply_repetition_penalty(std::span<float> logits, std::span<const std::int32_t> text, double penalty) {
  const std::unordered_set<std::int32_t> seen(text.begin(), text.end());
  for (const std::int32_t id : seen) {
    float& logit = logits[id];
    logit = static_cast<float>(logit > 0 ? logit / penalty : logit * penalty);
  }
}

void apply_temperature(std::span<float> logits, double temperature) {
  // Less the largest first: a tiny temperature must not make them infinite.
  const float largest = *std::ranges::max_element(logits);
  for (float& logit : logits)
    logit = static_cast<float>((static_cast<double>(logit) - largest) / temperature);
}

void keep_top_k(std::span<float> logits, std::int64_t k) {
  if (k >= std::ssize(logits)) return;
  std::vector<float> sorted(logits.begin(), logits.end());
  const auto kth = sorted.begin() + (k - 1);
  std::nth_element(sorted.begin(), kth, sorted.end(), std::greater<>());
  for (float& logit : logits)
    if (logit < *kth) logit = kExcluded;
}

void keep_top_p(std::span<float> logits, double p) {
  std::vector<std::int32_t> order;
  for (std::int32_t i = 0; i < std::ssize(logits); ++i)
    if (logits[i] != kExcluded) order.push_back(i);
  std::ranges::stable_sort(order, [&](auto a, auto b) { return logits[a] > logits[b]; });
  double total = 0, before = 0;
  for (const std::int32_t i : order) total += weight(logits[i], logits[order[0]]);
  for (const std::int32_t i : order) {
    const double own = weight(logits[i], logits[order[0]]);
    if (i != order[0] && before >= p * total) logits[i] = kExcluded;
    before += own;
  }
}

void keep_min_p(std::span<float> logits, double min_p) {
  const float largest = *std::ranges::max_element(logits);
  for (float& logit : logits)
    if (logit != largest && weight(logit, largest) < min_p) logit = kExcluded;
}

std::int32_t likeliest(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin());
}

std::int32_t draw(std::span<const float> logits, double uniform) {
  const float largest = *std::ranges::max_element(logits);
  double total = 0;
  for (const float logit : logits) total += weight(logit, largest);
  double left = uniform * total;
  std::int32_t last = 0;
  for (std::int32_t i = 0; i < std::ssize(logits); ++i) {
    const double own = weight(logits[i], largest);
    if (own == 0) continue;
    last = i;
    left -= own;
    if (left <= 0) break;
  }
  return last;
}

std::int32_t choose_token(std::span<const float> logits, std::span<const std::int32_t> text,
                          const SamplingOptions& options, double uniform) {
  std::vector<float> left(logits.begin(), logits.end());
  if (options.repetition_penalty != 1) apply_repetition_penalty(left, text, options.repetition_penalty);
  if (options.temperature == 0) return likeliest(left);
  apply_temperature(left, options.temperature);
  if (options.top_k > 0) keep_top_k(left, options.top_k);
  if (options.top_p < 1) keep_top_p(left, options.top_p);
  if (options.min_p > 0) keep_min_p(left, options.min_p);
  return draw(left, uniform);
}

}  // namespace filigree
