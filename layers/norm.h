// Layer norm (Ba et al. 2016) or RMS norm (Zhang & Sennrich 2019) over the last dimension.
#pragma once

#include <string>

#include "core/module.h"
#include "core/ops.h"
#include "layers/model_config.h"

namespace filigree {

class Norm : public Module {
 public:
  // Parameters: <name>.weight (1) and, for a layer norm if the config has biases, <name>.bias (0), both
  // [dim].
  Norm(const ParameterFactory& make, const std::string& name, const ModelConfig& config);
  Var forward(const Var& x) const;
  ops::Normed add_forward(const Var& x, const Var& branch) const;  // x + branch and its norm
  void visit(const Visitor& visitor) override;

 private:
  NormKind kind_;
  double eps_;
  Parameter weight_, bias_;  // bias_.var is undefined without one
};

}  // namespace filigree
