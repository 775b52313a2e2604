#include "core/ops_common.h"

namespace filigree::ops {

Var embedding(const Var& table, const Tensor& ids) {
  require_computing("embedding", table.value());
  require_indices("embedding", "ids", ids, table.value());
  require(table.rank() == 2, "[embedding] table {} instead of [V, C]", table.shape().str());
  const Tensor y = computed(ids.shape().append(table.dim(1)), table.value(), [&](auto context, Tensor& out) {
    embedding_forward(context, table.value(), ids, out);
  });
  return make_result("embedding", y, {table}, [ids, shape = table.shape()](const Tensor& dy) {
    return std::vector<Tensor>{computed(
        shape, dy, [&](auto context, Tensor& dtable) { embedding_backward(context, dy, ids, dtable); })};
  });
}

}  // namespace filigree::ops
