#include "layers/model_config.h"

#include "core/check.h"

namespace filigree {
namespace {

void fill_derived(ModelConfig& c) {
  if (c.n_kv_heads == 0) c.n_kv_heads = c.n_heads;
  if (c.head_dim == 0) {
    require(c.dim % c.n_heads == 0, "[model] dim {} is not a multiple of n_heads {}; set head_dim", c.dim,
            c.n_heads);
    c.head_dim = c.dim / c.n_heads;
  }
  // SwiGLU has three matrices for two: 8/3 dim keeps the parameter count of 4 dim (Shazeer 2020).
  if (c.ffn_dim == 0)
    c.ffn_dim = c.activation == Activation::swiglu ? (c.dim * 8 / 3 + 31) / 32 * 32 : 4 * c.dim;
}

}  // namespace

ModelConfig resolved(ModelConfig c) {
  require(c.dim >= 1, "[model] dim is {}; it must be at least 1", c.dim);
  require(c.n_layers >= 1, "[model] n_layers is {}; it must be at least 1", c.n_layers);
  require(c.n_heads >= 1, "[model] n_heads is {}; it must be at least 1", c.n_heads);
  fill_derived(c);
  require(c.n_kv_heads >= 1 && c.n_heads % c.n_kv_heads == 0,
          "[model] n_heads {} is not a multiple of n_kv_heads {}", c.n_heads, c.n_kv_heads);
  require(c.head_dim >= 1, "[model] head_dim is {}; it must be at least 1", c.head_dim);
  require(c.positions != Positions::rope || c.head_dim % 2 == 0,
          "[model] rope pairs features: head_dim {} must be even", c.head_dim);
  require(c.ffn_dim >= 1, "[model] ffn_dim is {}; it must be at least 1", c.ffn_dim);
  require(c.vocab_size >= 1, "[model] vocab_size is {}; it must be at least 1", c.vocab_size);
  require(c.positions != Positions::learned || c.max_seq_len >= 1,
          "[model] learned positions need max_seq_len, which is {}", c.max_seq_len);
  require(c.type != ModelType::encoder_classifier || c.n_classes >= 1,
          "[model] n_classes is {}; a classifier needs at least 1", c.n_classes);
  require(c.norm_eps > 0, "[model] norm_eps is {}; it must be positive", c.norm_eps);
  require(c.rope_theta > 0, "[model] rope_theta is {}; it must be positive", c.rope_theta);
  require(c.dropout >= 0 && c.dropout < 1, "[model] dropout is {}; it must be in [0, 1)", c.dropout);
  return c;
}

}  // namespace filigree
