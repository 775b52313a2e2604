// Multi-head sparse attention with its projections (Vaswani et al. 2017; kv heads: Ainslie et al. 2023).
#pragma once

#include <span>
#include <string>

#include "attention/sparse_attention.h"
#include "layers/decoder_cache.h"
#include "layers/linear.h"
#include "layers/model_config.h"

namespace filigree {

class AttentionLayer : public Module {
 public:
  // Parameters, with H = n_heads, G = n_kv_heads, D = head_dim:
  //   <name>.qkv.weight [(H + 2 G) D, dim]: rows h D + d are query head h, (H + g) D + d key head g,
  //                                         (H + G + g) D + d value head g; <name>.qkv.bias alike
  //   <name>.out.weight [dim, H D]: column h D + d reads head h; <name>.out.bias [dim]
  AttentionLayer(const ParameterFactory& make, const std::string& name, const ModelConfig& config);
  // [B, N, dim] -> [B, N, dim]. By value, so that a caller may move x in and it dies as soon as it is used.
  // row_bounds: i32 [B, N, 2] or undefined, see AttentionOptions. There is no dropout on attention weights:
  // the fused kernel never stores them.
  Var forward(Var x, const Connectivity& connectivity, const Tensor& row_bounds, bool training) const;
  // Texts that grow, without a tape. `begin` reads x [1, N, dim], whose first `rows` rows are all of text s
  // so far; `decode` reads x [R, 1, dim], row r being the next one of text texts[r].
  Var begin(Var x, std::int64_t s, std::int64_t rows, LayerCache& cache) const;
  Var decode(Var x, std::span<const std::int64_t> texts, LayerCache& cache) const;
  // Attention weights summed over the pairs of each tile and over the batch, f64 [H, query tiles, key tiles]
  // on the CPU. Nothing is recorded.
  Tensor mass(const Var& x, const Connectivity& connectivity, const Tensor& row_bounds) const;
  void visit(const Visitor& visitor) override;

 private:
  Var project(const Var& x) const;  // [B, N, H + 2 G, D]
  Var output(const Var& heads) const;
  Connected connect(const Var& qkv, const Connectivity& connectivity, const Tensor& row_bounds,
                    bool training) const;
  AttentionOptions options(const Var& qkv, const Var& gate, const Tensor& row_bounds) const;

  std::int64_t n_heads_, n_kv_heads_, head_dim_;
  Positions positions_;
  double rope_theta_;
  Linear qkv_, out_;
  double theta() const { return positions_ == Positions::rope ? rope_theta_ : 0; }
  mutable Tensor slopes_;  // ALiBi's, where they were last needed
};

}  // namespace filigree
