#include "layers/mlp.h"

#include "core/ops.h"
#include "layers/initial.h"

namespace filigree {
namespace {

Var activate(Activation kind, const Var& x) {
  switch (kind) {
    case Activation::gelu:
      return ops::gelu(x, ops::Gelu::erf);
    case Activation::gelu_tanh:
      return ops::gelu(x, ops::Gelu::tanh);
    case Activation::silu:
      return ops::silu(x);
    case Activation::swiglu:
      break;
  }
  check(false, "swiglu takes two inputs");
  return {};
}

}  // namespace

Mlp::Mlp(const ParameterFactory& make, const std::string& name, const ModelConfig& config)
    : activation_(config.activation),
      up_(make, name + ".up", config.dim, config.ffn_dim, config.bias, kInitialDeviation),
      down_(make, name + ".down", config.ffn_dim, config.dim, config.bias, residual_deviation(config)) {
  if (activation_ == Activation::swiglu)
    gate_.emplace(make, name + ".gate", config.dim, config.ffn_dim, config.bias, kInitialDeviation);
}

Var Mlp::forward(Var x) const {
  Var h = up_.forward(x);
  if (gate_) {
    const Var gate = gate_->forward(x);
    x = {};
    h = ops::swiglu(gate, h);
  } else {
    x = {};
    h = activate(activation_, h);
  }
  return down_.forward(h);
}

void Mlp::visit(const Visitor& visitor) {
  if (gate_) gate_->visit(visitor);
  up_.visit(visitor);
  down_.visit(visitor);
}

}  // namespace filigree
