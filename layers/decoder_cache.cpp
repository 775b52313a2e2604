#include "layers/decoder_cache.h"

namespace filigree {

std::vector<LayoutPtr> leading_layouts(const std::vector<LayoutPtr>& layouts, std::int64_t n) {
  std::vector<LayoutPtr> leading;
  for (std::size_t i = 0; i < layouts.size(); ++i) {
    const bool same = i > 0 && layouts[i] == layouts[i - 1];
    leading.push_back(same ? leading.back() : leading_layout(layouts[i], n));
  }
  return leading;
}

DecoderCache::DecoderCache(const ModelConfig& config, std::vector<LayoutPtr> layouts,
                           std::int64_t n_sequences, DType dtype)
    : layouts_(std::move(layouts)), gates_(layouts_.size()) {
  require(config.type == ModelType::decoder, "[decode] only a decoder makes text");
  require(static_cast<int>(layouts_.size()) == config.n_layers, "[decode] {} layouts for {} layers",
          layouts_.size(), config.n_layers);
  for (const LayoutPtr& layout : layouts_)
    require(layout->n_queries() == capacity(), "[decode] layouts for {} and {} tokens", capacity(),
            layout->n_queries());
  require(config.positions != Positions::learned || capacity() <= config.max_seq_len,
          "[decode] {} tokens are more than max_seq_len {}; learned positions end there", capacity(),
          config.max_seq_len);
  memories_.resize(layouts_.size(), std::vector<LearnedLayer::Memory>(n_sequences));
  for (const LayoutPtr& layout : layouts_)
    layers_.emplace_back(layout, n_sequences, config.n_kv_heads, config.head_dim, dtype);
}

namespace {

std::vector<LayoutPtr> layouts_of(const std::vector<LearnedLayer::Connection>& connections) {
  std::vector<LayoutPtr> layouts;
  for (const auto& c : connections) layouts.push_back(c.layout);
  return layouts;
}

}  // namespace

DecoderCache::DecoderCache(const ModelConfig& config,
                           const std::vector<LearnedLayer::Connection>& connections, std::int64_t n_sequences,
                           DType dtype)
    : DecoderCache(config, layouts_of(connections), n_sequences, dtype) {
  for (std::size_t i = 0; i < connections.size(); ++i) gates_[i] = connections[i].gate.value();
}

std::int64_t DecoderCache::bytes() const {
  std::int64_t total = 0;
  for (const DecodeCache& layer : layers_) total += layer.bytes();
  return total;
}

}  // namespace filigree
