// Text from a decoder, token by token, several texts at once.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "train/generate/sampling.h"
#include "train/record/loaded_model.h"

namespace filigree {

struct GenerateOptions {
  std::int64_t tokens = 200;  // at most, of each text
  SamplingOptions sampling;
  std::uint64_t seed = 1;
  // Tokens that the model sees at most; 0: data.seq_len. A text that grows beyond keeps its newest half and
  // goes on from there.
  std::int64_t max_context = 0;
  std::int64_t batch = 8;  // texts at once
  bool cache = true;       // keep keys and values; false, or on cuda: compute the text anew for each token
};

struct GenerateCallbacks {
  std::function<bool(std::size_t prompt, std::int32_t id)> use;  // each new token; false ends this text
  std::function<void(std::size_t prompt)> done;                  // not in the prompts' order
};

// The length that the model's layouts are built for, at most max_context. Error(usage) for a model that is no
// decoder, a context that the positions or the pattern do not allow, an empty prompt, or one that is longer
// than the context.
std::int64_t generation_length(const LoadedModel& loaded,
                               const std::vector<std::vector<std::int32_t>>& prompts,
                               const GenerateOptions& options);

// Continues each prompt (token ids). What a prompt gives depends on the seed and its number, not on those
// beside it (but for roundings where more than cpu::kFewRows go together).
void generate(const LoadedModel& loaded, const std::vector<std::vector<std::int32_t>>& prompts,
              const GenerateOptions& options, const GenerateCallbacks& callbacks);

}  // namespace filigree
