#include "layers/mlp.h"

#include "core/ops.h"
#include "layers/initial.h"

namespace filigree {
Mlp::Mlp(const ParameterFactory& make, const std::string& name, const ModelConfig& config)
    : activation_(config.activation),
      up_(make, name + ".up", config.dim, config.ffn_dim, config.bias, kInitialDeviation),
      down_(make, name + ".down", config.ffn_dim, config.dim, config.bias, residual_deviation(config)) {
  if (activation_ == Activation::swiglu)
    gate_.emplace(make, name + ".gate", config.dim, config.ffn_dim, config.bias, kInitialDeviation);
}

Var Mlp::forward(const Var& x) const {
  switch (activation_) {
    case Activation::gelu:
      return ops::gelu_mlp(x, up_.weights(), down_.weights(), ops::Gelu::erf);
    case Activation::gelu_tanh:
      return ops::gelu_mlp(x, up_.weights(), down_.weights(), ops::Gelu::tanh);
    case Activation::silu:
      return down_.forward(ops::silu(up_.forward(x)));
    case Activation::swiglu:
      break;
  }
  return ops::swiglu_mlp(x, gate_->weights(), up_.weights(), down_.weights());
}

void Mlp::visit(const Visitor& visitor) {
  if (gate_) gate_->visit(visitor);
  up_.visit(visitor);
  down_.visit(visitor);
}

}  // namespace filigree
