// A pre-norm transformer block: x += dropout(attention(norm(x))); x += dropout(mlp(norm(x))).
//
// The residual stream between blocks is a sum not yet made, x + branch: making it and its norm is one pass.
//
// Memory that a training step keeps per token and layer (f32, C = dim, A = n_heads head_dim, K = n_kv_heads
// head_dim, F = ffn_dim), counted from what each op saves:
//   attention norm   x C, its mean and scale 2      mlp norm   x C, its mean and scale 2
//   qkv              normed x C                     up (gate)  normed x C
//   attention        q A, k and v 2 K, o A, lse H   activation its input F (swiglu 2 F)
//   out              o, shared with attention       down       nothing: backward repeats the activation
// Sum: 4 C + 2 A + 2 K + F numbers (swiglu 2 F) beside a few scalars: 12 C = 48 C bytes in f32 at A = K = C,
// F = 4 C, so dim 256, 4 layers, N = 32768 keep 4 * 32768 * 12 KiB = 1.5 GiB. Dropout keeps nothing (it draws
// its mask anew) but the tensors that it makes differ from those it takes. With checkpointing a block keeps
// its input, C.
#pragma once

#include <span>
#include <string>

#include "layers/attention_layer.h"
#include "layers/mlp.h"
#include "layers/norm.h"

namespace filigree {

class Block : public Module {
 public:
  // Parameters: <name>.attention_norm, <name>.attention, <name>.mlp_norm, <name>.mlp.
  Block(const ParameterFactory& make, const std::string& name, const ModelConfig& config);
  // x [B, N, dim], branch alike or undefined for 0.
  struct Residual {
    Var x, branch;
  };
  // row_bounds: see AttentionLayer::forward.
  Residual forward(Residual in, const Connectivity& connectivity, const Tensor& row_bounds,
                   const ForwardContext& context) const;
  // The same for texts that grow, see AttentionLayer.
  Residual begin(Residual in, std::int64_t s, std::int64_t rows, LayerCache& cache) const;
  Residual decode(Residual in, std::span<const std::int64_t> texts, LayerCache& cache) const;
  // The two summands that the halves of the block add to x.
  Var attention_branch(const Var& x, const Connectivity& connectivity, const Tensor& row_bounds,
                       const ForwardContext& context) const;
  Var mlp_branch(const Var& x, const ForwardContext& context) const;
  // The mass of the attention to x, see AttentionLayer::mass.
  Tensor attention_mass(const Var& x, const Connectivity& connectivity, const Tensor& row_bounds) const;
  void visit(const Visitor& visitor) override;

 private:
  template <class Attend>
  Residual run(Residual in, const ForwardContext& context, const Attend& attend) const;

  double dropout_;
  std::uint32_t attention_site_, mlp_site_;
  Norm attention_norm_;
  AttentionLayer attention_;
  Norm mlp_norm_;
  Mlp mlp_;
};

}  // namespace filigree
