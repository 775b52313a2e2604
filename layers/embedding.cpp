#include "layers/embedding.h"

#include "core/ops.h"

namespace filigree {

Embedding::Embedding(const ParameterFactory& make, const std::string& name, std::int64_t rows,
                     std::int64_t dim, double deviation)
    : weight_(make.normal(name + ".weight", {rows, dim}, deviation)) {}

Var Embedding::forward(const Tensor& ids, DType type) const {
  return ops::embedding(weight_.var, ids, type);
}

Var Embedding::first_rows(std::int64_t n) const {
  return ops::slice(weight_.var, 0, n);
}

}  // namespace filigree
