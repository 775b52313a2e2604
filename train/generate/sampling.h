// From logits to a token. Each filter is a pure function of the logits, works in place and sets what it
// excludes to -inf; choose_token applies them in the order of Hugging Face's generate: repetition penalty,
// temperature, top-k, top-p, min-p.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace filigree {

struct SamplingOptions {
  double repetition_penalty = 1;  // above 1: tokens of the text become less likely; 1: off
  double temperature = 0.8;       // 0: always the likeliest token, and the filters below do nothing
  std::int64_t top_k = 40;        // 0: off
  double top_p = 1;               // 1: off
  double min_p = 0;               // 0: off
};

// Keskar et al. 2019 (CTRL), section 4.1: the logits of all tokens that the text holds are divided by the
// penalty where positive, else multiplied with it.
void apply_repetition_penalty(std::span<float> logits, std::span<const std::int32_t> text, double penalty);
void apply_temperature(std::span<float> logits, double temperature);  // > 0
// Keeps the k largest, and whatever equals the k-th.
void keep_top_k(std::span<float> logits, std::int64_t k);
// Keeps the fewest of the likeliest whose probabilities add up to p (Holtzman et al. 2020), one at least; of
// equal ones the lower index comes first.
void keep_top_p(std::span<float> logits, double p);
// Keeps tokens with at least min_p times the probability of the likeliest (Nguyen et al. 2024).
void keep_min_p(std::span<float> logits, double min_p);

// The index of the largest; of equal ones the lowest.
std::int32_t likeliest(std::span<const float> logits);
// An index drawn from the softmax; uniform in (0, 1).
std::int32_t draw(std::span<const float> logits, double uniform);

// `text`: the tokens so far, the prompt's included.
std::int32_t choose_token(std::span<const float> logits, std::span<const std::int32_t> text,
                          const SamplingOptions& options, double uniform);

}  // namespace filigree
