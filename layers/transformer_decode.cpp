// Decoding token by token: the ordinary blocks, whose attention reads what the cache keeps.
#include <algorithm>

#include "core/ops.h"
#include "layers/decoder_cache.h"
#include "layers/transformer.h"

namespace filigree {
namespace {

// The gate of a leading_layout: of each head the first tiles.
Tensor leading_gate(const Tensor& gate, const TileLayout& whole, const TileLayout& leading) {
  if (!gate.defined()) return {};
  Tensor part = Tensor::empty({leading.gate_size()}, gate.dtype());
  for (int h = 0; h < whole.n_heads(); ++h) {
    const std::int64_t from = whole.gate_offset(h), to = leading.gate_offset(h);
    part.slice(to, leading.gate_offset(h + 1)).copy_from(gate.slice(from, from + leading.of_head(h).tiles()));
  }
  return part;
}

}  // namespace

std::vector<LearnedLayer::Connection> Transformer::connections(const std::vector<LayoutPtr>& layouts) const {
  const NoGrad no_tape;
  std::vector<LearnedLayer::Connection> all;
  for (std::size_t i = 0; i < blocks_.size(); ++i)
    if (!learned_[i])
      all.push_back({layouts[i], {}});
    else if (learned_[i]->routes())
      all.push_back({learned_[i]->everything_layout(layouts[i]->n_queries()), {}});
    else
      all.push_back(learned_[i]->connect(layouts[i]->n_queries(), false));
  return all;
}

const LearnedLayer* Transformer::router_of(std::size_t layer) const {
  return learned_[layer] && learned_[layer]->routes() ? learned_[layer].get() : nullptr;
}

bool Transformer::learns() const {
  return std::ranges::any_of(learned_, [](const auto& layer) { return layer != nullptr; });
}

bool Transformer::routes() const {
  return std::ranges::any_of(learned_, [](const auto& layer) { return layer && layer->routes(); });
}

Tensor Transformer::begin_text(const Tensor& tokens, std::int64_t s, DecoderCache& cache) const {
  require(device_.is_cpu(), "[decode] runs on the cpu, the model is on {}", device_.str());
  const std::int64_t n = tokens.numel(), tile = cache.layer(0).layout().tile();
  require(tokens.rank() == 1 && n >= 1, "[decode] a text of shape {}", tokens.shape().str());
  require(n <= cache.capacity(), "[decode] a text of {} tokens for a cache of {}", n, cache.capacity());
  const NoGrad no_tape;
  // Whole tiles; causality hides the padding from the text.
  const std::int64_t length = std::min(cache.capacity(), (n + tile - 1) / tile * tile);
  Tensor padded = Tensor::zeros({1, length}, DType::i32);
  std::copy_n(tokens.data<std::int32_t>(), n, padded.data<std::int32_t>());
  const ModelInput in = checked({padded, {}, {}, leading_layouts(cache.layouts(), length)});
  Block::Residual x{embed(in.tokens, {}), {}};
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    Tensor qkv, plain;
    const LearnedLayer* router = router_of(i);
    AttentionMask mask{.layout = in.layouts[i], .turned_qkv = &qkv};
    if (router) {
      mask.router = router;
      mask.plain_qkv = &plain;
    } else {
      mask.gate = Var(leading_gate(cache.gate(i), cache.layer(i).layout(), *in.layouts[i]));
    }
    x = blocks_[i].forward(std::move(x), mask, {});
    if (router) {
      LearnedLayer::Memory& memory = cache.memories(i)[s];
      memory.clear();
      router->read_rows(plain.reshape({length, plain.dim(2), plain.dim(3)}).slice(0, n), cache.capacity(),
                        memory);
    }
    const std::int64_t H = config_.n_heads, G = config_.n_kv_heads;
    cache.layer(i).begin(s, Heads{qkv, H, G}, Heads{qkv, H + G, G}, n);
  }
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
    x = blocks_[i].forward(std::move(x),
                           {.gate = Var(cache.gate(i)),
                            .router = router_of(i),
                            .decode = {&cache.layer(i), sequences, &cache.memories(i)}},
                           {});
  const Var hidden = final_norm_.add_forward(x.x, x.branch).normed;
  return ops::linear(hidden, head_weight()).value().reshape({rows, config_.vocab_size});
}

}  // namespace filigree
