// A decoder keeps here what it needs of texts while it makes them longer.
//
//   DecoderCache cache(model, n, 1);                        // n: tokens of the prompt and those to come
//   Tensor logits = model.begin_text(prompt, 0, cache);     // through the ordinary forward, at once
//   const std::int64_t text[] = {0};
//   logits = model.next_token(chosen, text, cache);         // and so on
//
// A text's logits do not depend on the texts beside it.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "attention/connectivity.h"
#include "attention/decode_cache.h"

namespace filigree {

class Transformer;

// One layer's part.
struct LayerCache {
  LayerCache(ConnectivityPtr connectivity, std::int64_t capacity, std::int64_t n_texts,
             std::int64_t n_kv_heads, std::int64_t head_dim, DType dtype);

  // Where tiles depend on the text: reads the first `rows` rows of qkv [1, N, H + 2 G, D], positions not yet
  // applied, as text s; or one more row of each of these texts, [R, 1, H + 2 G, D], and returns the gates of
  // their tiles, [R, H, key tiles]. Undefined where they do not depend on it.
  void begin_reading(std::int64_t s, const Tensor& qkv, std::int64_t rows);
  Tensor read_on(std::span<const std::int64_t> texts, const Tensor& qkv);

  ConnectivityPtr connectivity;
  ConnectivityPtr beginning;                         // what the beginning of a text attends with
  Connected growing;                                 // all that rows may compute
  DecodeCache kept;                                  // keys and values
  std::vector<std::unique_ptr<TextReader>> readers;  // of each text
};

class DecoderCache {
 public:
  // For texts of at most `capacity` tokens. Error(usage) for a model that is no decoder or whose learned
  // positions end before.
  DecoderCache(const Transformer& model, std::int64_t capacity, std::int64_t n_texts);

  LayerCache& layer(std::size_t i) { return layers_[i]; }
  std::int64_t capacity() const { return capacity_; }
  int tile() const { return layers_[0].growing.layout->tile(); }
  std::int64_t length(std::int64_t s) const { return layers_[0].kept.length(s); }
  std::int64_t bytes() const;

 private:
  std::int64_t capacity_;
  std::vector<LayerCache> layers_;
};

}  // namespace filigree
