// The logits of what follows each of several texts that grow token by token.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "train/record/loaded_model.h"

namespace filigree {

class NextLogits {
 public:
  virtual ~NextLogits() = default;
  // A text takes this place, from its first token on; the logits after it, f32 [V] on the CPU.
  virtual Tensor begin(std::int64_t place, const std::vector<std::int32_t>& text) = 0;
  // One token more in each of these places: f32 [places, V].
  virtual Tensor next(std::span<const std::int64_t> places, const std::vector<std::int32_t>& tokens) = 0;
};

// Keeps keys and values (layers/decoder_cache.h); models on the CPU. `layouts`: one per layer, for the
// longest text.
std::unique_ptr<NextLogits> cached_logits(const Transformer& model, std::vector<LayoutPtr> layouts,
                                          std::int64_t places);
// Computes each text anew for every token, on any device.
std::unique_ptr<NextLogits> recomputed_logits(const Transformer& model, std::vector<LayoutPtr> layouts,
                                              std::int64_t places);

}  // namespace filigree
