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
  options.gate = mask.gate;
  if (positions_ == Positions::alibi) {
    const DType type = accumulation_dtype(x.dtype());
    if (!slopes_.defined() || slopes_.dtype() != type || slopes_.device() != x.device())
      slopes_ = alibi_slopes(static_cast<int>(n_heads_), type, x.device());
    options.alibi_slopes = slopes_;
  }
  x = qkv_.forward(x);
  x = ops::reshape(x, {batch, n, n_heads_ + 2 * n_kv_heads_, head_dim_});
  if (mask.router)
    x = attend_each(x, mask, options);
  else
    x = sparse_attention_qkv(std::move(x), n_kv_heads_, mask.layout, theta(), options);
  return out_.forward(ops::reshape(x, {batch, n, n_heads_ * head_dim_}));
}

// Each sequence has a layout of its own.
Var AttentionLayer::attend_each(const Var& qkv, const AttentionMask& mask,
                                const AttentionOptions& options) const {
  const std::int64_t batch = qkv.dim(0), n = qkv.dim(1), H = n_heads_, G = n_kv_heads_, D = head_dim_;
  const std::int64_t sizes[] = {H * D, G * D, G * D};
  const auto parts = ops::split_last(ops::reshape(qkv, {batch, n, (H + 2 * G) * D}), sizes);
  const auto connections =
      mask.router->connect_each(ops::reshape(parts[0], {batch, n, H, D}),
                                ops::reshape(parts[1], {batch, n, G, D}), mask.row_bounds, mask.training);
  std::vector<Var> outputs;
  for (std::int64_t b = 0; b < batch; ++b) {
    AttentionOptions own = options;
    own.gate = connections[static_cast<std::size_t>(b)].gate;
    if (options.row_bounds.defined()) own.row_bounds = options.row_bounds.slice(b, b + 1);
    const Var o = sparse_attention_qkv(ops::slice(qkv, b, b + 1), G,
                                       connections[static_cast<std::size_t>(b)].layout, theta(), own);
    outputs.push_back(ops::reshape(o, {n * H * D}));
  }
  return ops::reshape(ops::concat_last(outputs), {batch, n, H, D});
}

void AttentionLayer::visit(const Visitor& visitor) {
  qkv_.visit(visitor);
  out_.visit(visitor);
}

}  // namespace filigree
