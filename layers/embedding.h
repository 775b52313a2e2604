// A table with one row per id: tokens or positions.
#pragma once

#include <string>

#include "core/module.h"

namespace filigree {

class Embedding : public Module {
 public:
  // Parameter: <name>.weight [rows, dim], normal with this deviation.
  Embedding(const ParameterFactory& make, const std::string& name, std::int64_t rows, std::int64_t dim,
            double deviation);
  Var forward(const Tensor& ids, DType type) const;  // i32 [...] -> [..., dim] in this dtype
  Var first_rows(std::int64_t n) const;              // rows 0 .. n-1: [n, dim]
  const Var& weight() const { return weight_.var; }
  void visit(const Visitor& visitor) override { visitor(weight_); }

 private:
  Parameter weight_;
};

}  // namespace filigree
