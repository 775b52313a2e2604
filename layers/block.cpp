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

template <class Attend>
Block::Residual Block::run(Residual in, const ForwardContext& context, const Attend& attend) const {
  ops::Normed h = in.branch.defined() ? attention_norm_.add_forward(in.x, in.branch)
                                      : ops::Normed{in.x, attention_norm_.forward(in.x)};
  in = {};
  const Var attended = dropout(attend(std::move(h.normed)), dropout_, attention_site_, context);
  h = mlp_norm_.add_forward(h.sum, attended);
  return {h.sum, dropout(mlp_.forward(h.normed), dropout_, mlp_site_, context)};
}

Block::Residual Block::forward(Residual in, const Connectivity& connectivity, const Tensor& row_bounds,
                               const ForwardContext& context) const {
  return run(std::move(in), context, [&](Var normed) {
    return attention_.forward(std::move(normed), connectivity, row_bounds, context.training);
  });
}

Block::Residual Block::begin(Residual in, std::int64_t s, std::int64_t rows, LayerCache& cache) const {
  return run(std::move(in), {},
             [&](Var normed) { return attention_.begin(std::move(normed), s, rows, cache); });
}

Block::Residual Block::decode(Residual in, std::span<const std::int64_t> texts, LayerCache& cache) const {
  return run(std::move(in), {},
             [&](Var normed) { return attention_.decode(std::move(normed), texts, cache); });
}

Var Block::attention_branch(const Var& x, const Connectivity& connectivity, const Tensor& row_bounds,
                            const ForwardContext& context) const {
  const Var attended =
      attention_.forward(attention_norm_.forward(x), connectivity, row_bounds, context.training);
  return dropout(attended, dropout_, attention_site_, context);
}

Var Block::mlp_branch(const Var& x, const ForwardContext& context) const {
  return dropout(mlp_.forward(mlp_norm_.forward(x)), dropout_, mlp_site_, context);
}

Tensor Block::attention_mass(const Var& x, const Connectivity& connectivity, const Tensor& row_bounds) const {
  return attention_.mass(attention_norm_.forward(x), connectivity, row_bounds);
}

void Block::visit(const Visitor& visitor) {
  attention_norm_.visit(visitor);
  attention_.visit(visitor);
  mlp_norm_.visit(visitor);
  mlp_.visit(visitor);
}

}  // namespace filigree
