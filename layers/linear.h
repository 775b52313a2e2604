// y = x W^T + b. W is [out, in], as in PyTorch's nn.Linear.
#pragma once

#include <string>

#include "core/module.h"
#include "core/ops.h"

namespace filigree {

class Linear : public Module {
 public:
  // Weights are normal with this deviation, the bias is 0. Parameters: <name>.weight, <name>.bias.
  Linear(const ParameterFactory& make, const std::string& name, std::int64_t in, std::int64_t out, bool bias,
         double deviation);
  Var forward(const Var& x) const;  // [..., in] -> [..., out]
  ops::Weights weights() const { return {weight_.var, bias_.var}; }
  void visit(const Visitor& visitor) override;

 private:
  Parameter weight_, bias_;  // bias_.var is undefined without one
};

}  // namespace filigree
