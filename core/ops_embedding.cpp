#include "core/ops_common.h"

namespace filigree::ops {

Var embedding(const Var& table, const Tensor& ids) {
  return embedding(table, ids, table.dtype());
}

Var embedding(const Var& table, const Tensor& ids, DType type) {
  require_computing("embedding", table.value());
  require_indices("embedding", "ids", ids, table.value());
  require(table.rank() == 2, "[embedding] table {} instead of [V, C]", table.shape().str());
  require(type == table.dtype() || (type == DType::bf16 && table.dtype() == DType::f32),
          "[embedding] {} rows from a table in {}", dtype_name(type), dtype_name(table.dtype()));
  Tensor y = Tensor::empty(ids.shape().append(table.dim(1)), type, table.device());
  on_device(table.device(), [&](auto context) { embedding_forward(context, table.value(), ids, y); });
  return make_result(
      "embedding", y, {table}, [ids, shape = table.shape(), table_type = table.dtype()](const Tensor& dy) {
        Tensor dtable = Tensor::empty(shape, table_type, dy.device());
        on_device(dy.device(), [&](auto context) { embedding_backward(context, dy, ids, dtable); });
        return std::vector<Tensor>{dtable};
      });
}

}  // namespace filigree::ops
