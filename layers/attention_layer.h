// Multi-head sparse attention with its projections (Vaswani et al. 2017; kv heads: Ainslie et al. 2023).
#pragma once

#include <span>
#include <string>

#include "attention/decode_cache.h"
#include "attention/learned/learned_layer.h"
#include "attention/sparse_attention.h"
#include "layers/linear.h"
#include "layers/model_config.h"

namespace filigree {

// New rows of some sequences of a cache, one each.
struct DecodeRows {
  DecodeCache* cache = nullptr;
  std::span<const std::int64_t> sequences;
  std::vector<LearnedLayer::Memory>* memories = nullptr;  // of all sequences, where the layer routes
};

// Who sees whom in one layer.
struct AttentionMask {
  LayoutPtr layout = {};
  Tensor row_bounds = {};  // i32 [B, N, 2] or undefined, see AttentionOptions
  Var gate = {};           // of the layout's tiles or undefined, see AttentionOptions
  // If given, layout and gate come from here, by each sequence's queries and keys.
  const LearnedLayer* router = nullptr;
  bool training = false;         // for the router
  Tensor* turned_qkv = nullptr;  // receives what was attended with, see AttentionOptions
  Tensor* plain_qkv = nullptr;   // the same before positions, [B, N, H + 2 G, D]
  // In the place of a layout: x is [R, 1, dim], row r the next one of sequence r, and sees what the cache
  // keeps, gated as the cache's layout.
  DecodeRows decode = {};
};

class AttentionLayer : public Module {
 public:
  // Parameters, with H = n_heads, G = n_kv_heads, D = head_dim:
  //   <name>.qkv.weight [(H + 2 G) D, dim]: rows h D + d are query head h, (H + g) D + d key head g,
  //                                         (H + G + g) D + d value head g; <name>.qkv.bias alike
  //   <name>.out.weight [dim, H D]: column h D + d reads head h; <name>.out.bias [dim]
  AttentionLayer(const ParameterFactory& make, const std::string& name, const ModelConfig& config);
  // [B, N, dim] -> [B, N, dim]. By value, so that a caller may move x in and it dies as soon as it is used.
  // There is no dropout on attention weights: the fused kernel never stores them.
  Var forward(Var x, const AttentionMask& mask) const;
  // Attention weights summed over the pairs of each tile and over the batch, f64 [H, query tiles, key tiles]
  // on the CPU. Nothing is recorded.
  Tensor mass(const Var& x, const AttentionMask& mask) const;
  void visit(const Visitor& visitor) override;

 private:
  AttentionOptions options(const AttentionMask& mask, DType compute, Device device) const;
  Var attend_each(const Var& qkv, const AttentionMask& mask, const AttentionOptions& options) const;
  Tensor decode(const Tensor& qkv, const AttentionMask& mask, const AttentionOptions& options) const;

  std::int64_t n_heads_, n_kv_heads_, head_dim_;
  Positions positions_;
  double rope_theta_;
  Linear qkv_, out_;
  double theta() const { return positions_ == Positions::rope ? rope_theta_ : 0; }
  mutable Tensor slopes_;  // ALiBi's, where they were last needed
};

}  // namespace filigree
