#include "layers/linear.h"

#include "core/ops.h"

namespace filigree {

Linear::Linear(const ParameterFactory& make, const std::string& name, std::int64_t in, std::int64_t out,
               bool bias, double deviation)
    : weight_(make.normal(name + ".weight", {out, in}, deviation)) {
  if (bias) bias_ = make.constant(name + ".bias", {out}, 0);
}

Var Linear::forward(const Var& x) const {
  return ops::linear(x, weight_.var, bias_.var);
}

void Linear::visit(const Visitor& visitor) {
  visitor(weight_);
  if (bias_.var.defined()) visitor(bias_);
}

}  // namespace filigree
