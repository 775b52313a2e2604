#include "layers/flops.h"

namespace filigree {

std::int64_t matmul_parameters(const ModelConfig& config) {
  const ModelConfig c = resolved(config);
  const std::int64_t attention = c.dim * c.head_dim * (2 * c.n_heads + 2 * c.n_kv_heads);
  const std::int64_t mlp = c.dim * c.ffn_dim * (c.activation == Activation::swiglu ? 3 : 2);
  std::int64_t total = c.n_layers * (attention + mlp);
  if (c.type != ModelType::encoder_classifier) total += c.vocab_size * c.dim;
  if (c.type == ModelType::encoder_mlm) total += c.dim * c.dim;
  return total;
}

double model_flops_per_token(const ModelConfig& config, std::span<const LayoutPtr> layouts) {
  const ModelConfig c = resolved(config);
  double flops = 6.0 * static_cast<double>(matmul_parameters(c));
  for (const LayoutPtr& layout : layouts)
    flops += 12.0 * static_cast<double>(c.head_dim) * static_cast<double>(layout->statistics().exact_pairs) /
             static_cast<double>(layout->n_queries());
  return flops;
}

}  // namespace filigree
