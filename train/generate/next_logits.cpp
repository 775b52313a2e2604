#include "train/generate/next_logits.h"

#include <algorithm>
#include <map>

#include "layers/decoder_cache.h"

namespace filigree {
namespace {

class CachedLogits : public NextLogits {
 public:
  CachedLogits(const Transformer& model, const std::vector<LayoutPtr>& layouts, std::int64_t places)
      : model_(model), cache_(model.config(), model.connections(layouts), places) {}

  Tensor begin(std::int64_t place, const std::vector<std::int32_t>& text) override {
    return model_.begin_text(Tensor::of({std::ssize(text)}, text), place, cache_);
  }
  Tensor next(std::span<const std::int64_t> places, const std::vector<std::int32_t>& tokens) override {
    return model_.next_token(Tensor::of({std::ssize(tokens)}, tokens), places, cache_);
  }

 private:
  const Transformer& model_;
  DecoderCache cache_;
};

class RecomputedLogits : public NextLogits {
 public:
  RecomputedLogits(const Transformer& model, std::vector<LayoutPtr> layouts, std::int64_t places)
      : model_(model), layouts_(std::move(layouts)), texts_(places) {
    if (model.routes()) return;
    // What is hardened depends on the length: the parts of one layout, as with a cache.
    const auto connections = model.connections(layouts_);
    fixed_ = std::ranges::none_of(connections, [](const auto& c) { return c.gate.defined(); });
    for (std::size_t i = 0; fixed_ && i < layouts_.size(); ++i) layouts_[i] = connections[i].layout;
  }

  Tensor begin(std::int64_t place, const std::vector<std::int32_t>& text) override {
    texts_[place] = text;
    return logits(text);
  }
  Tensor next(std::span<const std::int64_t> places, const std::vector<std::int32_t>& tokens) override {
    std::vector<float> all;
    for (std::size_t i = 0; i < places.size(); ++i) {
      std::vector<std::int32_t>& text = texts_[places[i]];
      text.push_back(tokens[i]);
      const Tensor row = logits(text);
      all.insert(all.end(), row.values<float>().begin(), row.values<float>().end());
    }
    return Tensor::of({std::ssize(places), model_.config().vocab_size}, all);
  }

 private:
  Tensor logits(const std::vector<std::int32_t>& text) {
    const NoGrad no_tape;
    const std::int64_t length = std::ssize(text), tile = layouts_[0]->tile(),
                       longest = layouts_[0]->n_queries();
    // Padding to whole tiles keeps the number of layouts small; causality hides it from the text.
    const std::int64_t padded = std::min(longest, (length + tile - 1) / tile * tile);
    std::vector<LayoutPtr>& layouts = leading_[padded];
    if (layouts.empty()) layouts = leading_layouts(layouts_, padded);
    std::vector<std::int32_t> ids = text;
    ids.resize(padded, 0);
    const ModelInput input{Tensor::of({1, padded}, ids, model_.device()), {}, {}, layouts, fixed_};
    return model_.logits_at(input, length - 1, {}).value().to(DType::f32).to(Device::cpu());
  }

  const Transformer& model_;
  std::vector<LayoutPtr> layouts_;
  bool fixed_ = false;
  std::map<std::int64_t, std::vector<LayoutPtr>> leading_;  // by padded length
  std::vector<std::vector<std::int32_t>> texts_;
};

}  // namespace

std::unique_ptr<NextLogits> cached_logits(const Transformer& model, std::vector<LayoutPtr> layouts,
                                          std::int64_t places) {
  return std::make_unique<CachedLogits>(model, std::move(layouts), places);
}

std::unique_ptr<NextLogits> recomputed_logits(const Transformer& model, std::vector<LayoutPtr> layouts,
                                              std::int64_t places) {
  return std::make_unique<RecomputedLogits>(model, std::move(layouts), places);
}

}  // namespace filigree
