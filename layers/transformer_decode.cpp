// Decoding token by token: the ordinary blocks, whose attention reads what the cache keeps.
#include <algorithm>

#include "core/ops.h"
#include "layers/decoder_cache.h"
#include "layers/transformer.h"

namespace filigree {

Tensor Transformer::begin_text(const Tensor& tokens, std::int64_t s, DecoderCache& cache) const {
  require(device_.is_cpu(), "[decode] runs on the cpu, the model is on {}", device_.str());
  const std::int64_t n = tokens.numel(), tile = cache.tile();
  require(tokens.rank() == 1 && n >= 1, "[decode] a text of shape {}", tokens.shape().str());
  require(n <= cache.capacity(), "[decode] a text of {} tokens for a cache of {}", n, cache.capacity());
  const NoGrad no_tape;
  // Whole tiles; causality hides the padding from the text.
  const std::int64_t length = std::min(cache.capacity(), (n + tile - 1) / tile * tile);
  Tensor padded = Tensor::zeros({1, length}, DType::i32);
  std::copy_n(tokens.data<std::int32_t>(), n, padded.data<std::int32_t>());
  Block::Residual x{embed(padded, {}), {}};
  for (std::size_t i = 0; i < blocks_.size(); ++i) x = blocks_[i].begin(std::move(x), s, n, cache.layer(i));
  const auto last = [&](const Var& v) {
    return Var(v.value().reshape({length, 1, config_.dim}).slice(n - 1, n));
  };
  const Var hidden = final_norm_.forward(ops::add(last(x.x), last(x.branch)));
  return ops::linear(hidden, head_weight()).value().reshape({1, config_.vocab_size});
}

Tensor Transformer::next_token(const Tensor& tokens, std::span<const std::int64_t> sequences,
                               DecoderCache& cache) const {
  require(device_.is_cpu(), "[decode] runs on the cpu, the model is on {}", device_.str());
  const std::int64_t rows = std::ssize(sequences);
  require(tokens.shape() == Shape{rows}, "[decode] tokens {} for {} texts", tokens.shape().str(), rows);
  const NoGrad no_tape;
  Var embedded = token_embedding_.forward(tokens.reshape({rows, 1}), compute_);
  if (position_embedding_) {
    std::vector<std::int32_t> positions;
    for (const std::int64_t s : sequences) {
      require(cache.length(s) < cache.capacity(), "[decode] the text is full: its cache is for {} tokens",
              cache.capacity());
      positions.push_back(static_cast<std::int32_t>(cache.length(s)));
    }
    embedded = ops::add(embedded, position_embedding_->forward(Tensor::of({rows, 1}, positions), compute_));
  }
  Block::Residual x{embedded, {}};
  for (std::size_t i = 0; i < blocks_.size(); ++i)
    x = blocks_[i].decode(std::move(x), sequences, cache.layer(i));
  const Var hidden = final_norm_.add_forward(x.x, x.branch).normed;
  return ops::linear(hidden, head_weight()).value().reshape({rows, config_.vocab_size});
}

}  // namespace filigree
