#include "layers/block.h"

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

Var Block::forward(Var x, const AttentionMask& mask, const ForwardContext& context) const {
  x = ops::add(x, attention_branch(x, mask, context));
  return ops::add(x, mlp_branch(x, context));
}

Var Block::attention_branch(const Var& x, const AttentionMask& mask, const ForwardContext& context) const {
  return dropout(attention_.forward(attention_norm_.forward(x), mask), dropout_, attention_site_, context);
}

Var Block::mlp_branch(const Var& x, const ForwardContext& context) const {
  return dropout(mlp_.forward(mlp_norm_.forward(x)), dropout_, mlp_site_, context);
}

void Block::visit(const Visitor& visitor) {
  attention_norm_.visit(visitor);
  attention_.visit(visitor);
  mlp_norm_.visit(visitor);
  mlp_.visit(visitor);
}

}  // namespace filigree
