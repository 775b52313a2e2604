#include "layers/attention_layer.h"

#include <utility>

#include "core/ops.h"
#include "layers/initial.h"

namespace filigree {

AttentionLayer::AttentionLayer(const ParameterFactory& make, const std::string& name,
                               const ModelConfig& config)
    : n_heads_(config.n_heads),
      n_kv_heads_(config.n_kv_heads),
      head_dim_(config.head_dim),
      positions_(config.positions),
      rope_theta_(config.rope_theta),
      qkv_(make, name + ".qkv", config.dim, (n_heads_ + 2 * n_kv_heads_) * head_dim_, config.bias,
           kInitialDeviation),
      out_(make, name + ".out", n_heads_ * head_dim_, config.dim, config.bias, residual_deviation(config)) {}

Var AttentionLayer::forward(Var x, const AttentionMask& mask) const {
  const std::int64_t batch = x.dim(0), n = x.dim(1);
  AttentionOptions options;
  options.row_bounds = mask.row_bounds;
  options.turned_qkv = mask.turned_qkv;
  if (positions_ == Positions::alibi) {
    const DType type = accumulation_dtype(x.dtype());
    if (!slopes_.defined() || slopes_.dtype() != type || slopes_.device() != x.device())
      slopes_ = alibi_slopes(static_cast<int>(n_heads_), type, x.device());
    options.alibi_slopes = slopes_;
  }
  x = qkv_.forward(x);
  x = ops::reshape(x, {batch, n, n_heads_ + 2 * n_kv_heads_, head_dim_});
  const double theta = positions_ == Positions::rope ? rope_theta_ : 0;
  if (mask.decode.cache)
    x = Var(mask.decode.cache->attend(x.value(), mask.decode.sequences, theta, options));
  else
    x = sparse_attention_qkv(std::move(x), n_kv_heads_, mask.layout, theta, options);
  return out_.forward(ops::reshape(x, {batch, n, n_heads_ * head_dim_}));
}

void AttentionLayer::visit(const Visitor& visitor) {
  qkv_.visit(visitor);
  out_.visit(visitor);
}

}  // namespace filigree
