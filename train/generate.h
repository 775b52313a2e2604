// Sampling from a decoder, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "train/loaded_model.h"

namespace filigree {

struct GenerateOptions {
  std::int64_t tokens = 200;
  double temperature = 0.8;  // 0: always the likeliest token
  int top_k = 40;            // 0: all
  std::uint64_t seed = 1;
};

// Continues `prompt` (token ids, not empty) and hands each new id to `use`, which returns false to stop. The
// model sees at most data.seq_len tokens; a longer text keeps its newest half and goes on.
void generate(const LoadedModel& loaded, std::vector<std::int32_t> prompt, const GenerateOptions& options,
              const std::function<bool(std::int32_t)>& use);

// Draws an index from softmax(logits / temperature) over the top_k largest; ties go to the lower index.
std::int32_t sample(std::span<const float> logits, double temperature, int top_k, double uniform);

}  // namespace filigree
