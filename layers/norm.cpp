#include "layers/norm.h"

#include "core/ops.h"

namespace filigree {

Norm::Norm(const ParameterFactory& make, const std::string& name, const ModelConfig& config)
    : kind_(config.norm), eps_(config.norm_eps), weight_(make.constant(name + ".weight", {config.dim}, 1)) {
  if (kind_ == NormKind::layer_norm && config.bias) bias_ = make.constant(name + ".bias", {config.dim}, 0);
}

Var Norm::forward(const Var& x) const {
  if (kind_ == NormKind::rms_norm) return ops::rms_norm(x, weight_.var, eps_);
  return ops::layer_norm(x, weight_.var, bias_.var, eps_);
}

ops::Normed Norm::add_forward(const Var& x, const Var& branch) const {
  if (kind_ == NormKind::rms_norm) return ops::add_rms_norm(x, branch, weight_.var, eps_);
  return ops::add_layer_norm(x, branch, weight_.var, bias_.var, eps_);
}

void Norm::visit(const Visitor& visitor) {
  visitor(weight_);
  if (bias_.var.defined()) visitor(bias_);
}

}  // namespace filigree
