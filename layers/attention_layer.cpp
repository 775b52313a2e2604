#include "layers/attention_layer.h"

#include <array>
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

// [B, N, heads D] -> [B, N, heads, D], turned by the position where asked for.
Var AttentionLayer::heads(Var x, std::int64_t n_heads, bool rotate) const {
  x = ops::reshape(x, {x.dim(0), x.dim(1), n_heads, head_dim_});
  return rotate ? ops::rope(x, rope_theta_) : x;
}

Var AttentionLayer::forward(Var x, const AttentionMask& mask) const {
  const std::int64_t batch = x.dim(0), n = x.dim(1);
  const bool rotate = positions_ == Positions::rope;
  const std::array sizes{n_heads_ * head_dim_, n_kv_heads_ * head_dim_, n_kv_heads_ * head_dim_};

  x = qkv_.forward(x);
  std::vector<Var> parts = ops::split_last(x, sizes);
  x = {};
  const Var q = heads(std::exchange(parts[0], {}), n_heads_, rotate);
  const Var k = heads(std::exchange(parts[1], {}), n_kv_heads_, rotate);
  const Var v = heads(std::exchange(parts[2], {}), n_kv_heads_, false);

  AttentionOptions options;
  options.row_bounds = mask.row_bounds;
  if (positions_ == Positions::alibi)
    options.alibi_slopes = alibi_slopes(static_cast<int>(n_heads_), q.dtype(), q.device());
  const Var o = sparse_attention(q, k, v, mask.layout, options);
  return out_.forward(ops::reshape(o, {batch, n, n_heads_ * head_dim_}));
}

void AttentionLayer::visit(const Visitor& visitor) {
  qkv_.visit(visitor);
  out_.visit(visitor);
}

}  // namespace filigree
