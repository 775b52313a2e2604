// What a decoder keeps of texts while it makes them longer: a DecodeCache per layer.
//
//   DecoderCache cache(model.config(), layouts, 1);         // layouts for the prompt and the tokens to come
//   Tensor logits = model.begin_text(prompt, 0, cache);     // through the ordinary forward, at once
//   const std::int64_t text[] = {0};
//   logits = model.next_token(chosen, text, cache);         // and so on
//
// A text's logits do not depend on the texts beside it.
#pragma once

#include <vector>

#include "attention/decode_cache.h"
#include "attention/learned/learned_layer.h"
#include "layers/model_config.h"

namespace filigree {

// leading_layout of each; layers that share one share its part.
std::vector<LayoutPtr> leading_layouts(const std::vector<LayoutPtr>& layouts, std::int64_t n);

class DecoderCache {
 public:
  // `layouts`: one per layer, all for the same length, which no text may exceed. Error(usage) for a model
  // that is no decoder or whose learned positions end before.
  DecoderCache(const ModelConfig& config, std::vector<LayoutPtr> layouts, std::int64_t n_sequences,
               DType dtype = DType::f32);
  // Layouts and gates as a model with learned patterns has them: Transformer::connections.
  DecoderCache(const ModelConfig& config, const std::vector<LearnedLayer::Connection>& connections,
               std::int64_t n_sequences, DType dtype = DType::f32);

  DecodeCache& layer(std::size_t i) { return layers_[i]; }
  const DecodeCache& layer(std::size_t i) const { return layers_[i]; }
  std::int64_t capacity() const { return layouts_[0]->n_queries(); }  // tokens of a text
  std::int64_t length(std::int64_t s) const { return layers_[0].length(s); }
  std::int64_t bytes() const;
  const std::vector<LayoutPtr>& layouts() const { return layouts_; }
  const Tensor& gate(std::size_t i) const { return gates_[i]; }  // of layer i, undefined: 1
  // What the routers of layer i remember of each text.
  std::vector<LearnedLayer::Memory>& memories(std::size_t i) { return memories_[i]; }

 private:
  std::vector<LayoutPtr> layouts_;
  std::vector<Tensor> gates_;
  std::vector<std::vector<LearnedLayer::Memory>> memories_;
  std::vector<DecodeCache> layers_;
};

}  // namespace filigree
