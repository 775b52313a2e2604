// The position-wise network: down(f(up(x))), or down(silu(gate(x)) * up(x)) for swiglu (Shazeer 2020).
#pragma once

#include <optional>
#include <string>

#include "layers/linear.h"
#include "layers/model_config.h"

namespace filigree {

class Mlp : public Module {
 public:
  // Parameters: <name>.gate (swiglu only) and <name>.up [ffn_dim, dim], <name>.down [dim, ffn_dim].
  Mlp(const ParameterFactory& make, const std::string& name, const ModelConfig& config);
  Var forward(const Var& x) const;  // [..., dim] -> [..., dim]
  void visit(const Visitor& visitor) override;

 private:
  Activation activation_;
  std::optional<Linear> gate_;
  Linear up_, down_;
};

}  // namespace filigree
