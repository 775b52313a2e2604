#include "layers/block.h"

#include <utility>

#include "core/ops.h"

namespace filigree {

Block::Block(const ParameterFactory& make, const std::string& name, const ModelConfig& config)
    : dropout_(config.dropout),
      attention_site_(random_site(name + ".attention.dropout")),
      mlp_site_(random_site(name + ".mlp.dropout")),
      attention_norm_(make, name + ".attention_norm", config),
      attention_(make, name + ".attention", config),
      mlp_norm_(make, name + ".mlp_norm", config),
      mlp_(make, name + ".mlp", config) {}

Block::Residual Block::forward(Residual in, const AttentionMask& mask, const ForwardContext& context) const {
  ops::Normed h = in.branch.defined() ? attention_norm_.add_forward(in.x, in.branch)
                                      : ops::Normed{in.x, attention_norm_.forward(in.x)};
  in = {};
  const Var attended = attend(std::move(h.normed), mask, context);
  h = mlp_norm_.add_forward(h.sum, attended);
  return {h.sum, dropout(mlp_.forward(h.normed), dropout_, mlp_site_, context)};
}

Var Block::attend(Var normed, const AttentionMask& mask, const ForwardContext& context) const {
  return dropout(attention_.forward(std::move(normed), mask), dropout_, attention_site_, context);
}

Var Block::attention_branch(const Var& x, const AttentionMask& mask, const ForwardContext& context) const {
  return attend(attention_norm_.forward(x), mask, context);
}

Var Block::mlp_branch(const Var& x, const ForwardContext& context) const {
  return dropout(mlp_.forward(mlp_norm_.forward(x)), dropout_, mlp_site_, context);
}

Tensor Block::attention_mass(const Var& x, const AttentionMask& mask) const {
  return attention_.mass(attention_norm_.forward(x), mask);
}

void Block::visit(const Visitor& visitor) {
  attention_norm_.visit(visitor);
  attention_.visit(visitor);
  mlp_norm_.visit(visitor);
  mlp_.visit(visitor);
}

}  // namespace filigree
