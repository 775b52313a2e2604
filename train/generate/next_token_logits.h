// The logits of what follows each of several texts that grow token by token.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "train/record/loaded_model.h"

namespace filigree {

class NextTokenLogits {
 public:
  virtual ~NextTokenLogits() = default;
  // Text number `text` begins anew with these tokens; the logits after it, f32 [V] on the CPU.
  virtual Tensor begin(std::int64_t text, const std::vector<std::int32_t>& tokens) = 0;
  // One token more of each of these texts: f32 [texts, V].
  virtual Tensor next(std::span<const std::int64_t> texts, const std::vector<std::int32_t>& tokens) = 0;
};

// For `n_texts` texts at once, none of more than `longest` tokens.
// Keeps keys and values (layers/decoder_cache.h); models on the CPU.
std::unique_ptr<NextTokenLogits> cached_logits(const Transformer& model, std::int64_t longest,
                                               std::int64_t n_texts);
// Computes each text anew for every token, on any device.
std::unique_ptr<NextTokenLogits> recomputed_logits(const Transformer& model, std::int64_t longest,
                                                   std::int64_t n_texts);

}  // namespace filigree
