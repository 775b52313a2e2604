#include "train/generate/next_token_logits.h"

#include <algorithm>

#include "layers/decoder_cache.h"

namespace filigree {
namespace {

class CachedLogits : public NextTokenLogits {
 public:
  CachedLogits(const Transformer& model, std::int64_t longest, std::int64_t n_texts)
      : model_(model), cache_(model, longest, n_texts) {}

  Tensor begin(std::int64_t text, const std::vector<std::int32_t>& tokens) override {
    return model_.begin_text(Tensor::of({std::ssize(tokens)}, tokens), text, cache_);
  }
  Tensor next(std::span<const std::int64_t> texts, const std::vector<std::int32_t>& tokens) override {
    return model_.next_token(Tensor::of({std::ssize(tokens)}, tokens), texts, cache_);
  }

 private:
  const Transformer& model_;
  DecoderCache cache_;
};

// Layers that share a layout share the beginnings of it.
Transformer as_beginning(const Transformer& model, std::int64_t longest) {
  const std::vector<ConnectivityPtr>& layers = model.connectivities();
  std::vector<ConnectivityPtr> beginnings;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const bool same = i > 0 && !layers[i]->learns() && !layers[i - 1]->learns() &&
                      layers[i]->growing(longest).layout == layers[i - 1]->growing(longest).layout;
    beginnings.push_back(same ? beginnings.back() : as_beginning(layers[i], longest));
  }
  return model.attending_with(std::move(beginnings));
}

class RecomputedLogits : public NextTokenLogits {
 public:
  RecomputedLogits(const Transformer& model, std::int64_t longest, std::int64_t n_texts)
      : model_(as_beginning(model, longest)),
        longest_(longest),
        tile_(model.connectivities()[0]->training_geometry().tile),
        texts_(n_texts) {}

  Tensor begin(std::int64_t text, const std::vector<std::int32_t>& tokens) override {
    texts_[text] = tokens;
    return logits(tokens);
  }
  Tensor next(std::span<const std::int64_t> texts, const std::vector<std::int32_t>& tokens) override {
    std::vector<float> all;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      std::vector<std::int32_t>& text = texts_[texts[i]];
      text.push_back(tokens[i]);
      const Tensor row = logits(text);
      all.insert(all.end(), row.values<float>().begin(), row.values<float>().end());
    }
    return Tensor::of({std::ssize(texts), model_.config().vocab_size}, all);
  }

 private:
  Tensor logits(const std::vector<std::int32_t>& text) {
    const NoGrad no_tape;
    const std::int64_t length = std::ssize(text);
    // Padding to whole tiles keeps the number of layouts small; causality hides it from the text.
    const std::int64_t padded = std::min(longest_, (length + tile_ - 1) / tile_ * tile_);
    std::vector<std::int32_t> ids = text;
    ids.resize(padded, 0);
    const ModelInput input{Tensor::of({1, padded}, ids, model_.device()), {}, {}};
    return model_.logits_at(input, length - 1, {}).value().to(DType::f32).to(Device::cpu());
  }

  Transformer model_;
  std::int64_t longest_, tile_;
  std::vector<std::vector<std::int32_t>> texts_;
};

}  // namespace

std::unique_ptr<NextTokenLogits> cached_logits(const Transformer& model, std::int64_t longest,
                                               std::int64_t n_texts) {
  return std::make_unique<CachedLogits>(model, longest, n_texts);
}

std::unique_ptr<NextTokenLogits> recomputed_logits(const Transformer& model, std::int64_t longest,
                                                   std::int64_t n_texts) {
  return std::make_unique<RecomputedLogits>(model, longest, n_texts);
}

}  // namespace filigree
