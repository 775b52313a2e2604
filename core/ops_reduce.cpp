#include "core/ops_common.h"

namespace filigree::ops {
namespace {

// x [R], repeated along a new last dimension.
Tensor repeated(const Tensor& x, const Shape& shape) {
  const std::int64_t rows = x.numel(), width = rows ? shape.numel() / rows : 0;
  return computed({rows, width}, x, [&](auto context, Tensor& y) { broadcast_last(context, x, y); })
      .reshape(shape);
}

}  // namespace

Var sum(const Var& x) {
  require_computing("sum", x.value());
  const Tensor y = computed({1}, x.value(), [&](auto context, Tensor& out) { sum(context, x.value(), out); });
  return make_result("sum", y, {x}, [shape = x.shape()](const Tensor& dy) {
    return std::vector<Tensor>{repeated(dy, shape)};
  });
}

Var sum_last(const Var& x) {
  require_computing("sum_last", x.value());
  require(x.rank() >= 1, "[sum_last] of a shape without dimensions");
  const Tensor y = computed(x.shape().drop_last(), x.value(),
                            [&](auto context, Tensor& out) { sum_last(context, as_rows(x.value()), out); });
  return make_result("sum_last", y, {x}, [shape = x.shape()](const Tensor& dy) {
    return std::vector<Tensor>{repeated(dy, shape)};
  });
}

Var mean_rows(const Var& x, const Tensor& row_bounds) {
  require_computing("mean_rows", x.value());
  require_indices("mean_rows", "row bounds", row_bounds, x.value());
  require(x.rank() == 3 && row_bounds.shape() == Shape{x.dim(0), 2}, "[mean_rows] x {} with bounds {}",
          x.shape().str(), row_bounds.shape().str());
  const Tensor y = computed({x.dim(0), x.dim(2)}, x.value(), [&](auto context, Tensor& out) {
    mean_rows_forward(context, x.value(), row_bounds, out);
  });
  return make_result("mean_rows", y, {x}, [row_bounds, shape = x.shape()](const Tensor& dy) {
    return std::vector<Tensor>{computed(
        shape, dy, [&](auto context, Tensor& dx) { mean_rows_backward(context, dy, row_bounds, dx); })};
  });
}

}  // namespace filigree::ops
