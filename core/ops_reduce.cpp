#include "core/ops_common.h"

namespace filigree::ops {
namespace {

// x [R] times factor, repeated along a new last dimension.
Tensor repeated(const Tensor& x, double factor, const Shape& shape) {
  const std::int64_t rows = x.numel(), width = rows ? shape.numel() / rows : 0;
  return computed({rows, width}, x, [&](auto context, Tensor& y) { broadcast_last(context, x, factor, y); })
      .reshape(shape);
}

Var scaled_sum(const char* op, const Var& x, double factor) {
  require_computing(op, x.value());
  const Tensor y =
      computed({1}, x.value(), [&](auto context, Tensor& out) { sum(context, x.value(), factor, out); });
  return make_result(op, y, {x}, [factor, shape = x.shape()](const Tensor& dy) {
    return std::vector<Tensor>{repeated(dy, factor, shape)};
  });
}

}  // namespace

Var sum(const Var& x) {
  return scaled_sum("sum", x, 1);
}

Var mean(const Var& x) {
  require(x.numel() > 0, "[mean] of no elements: {}", x.shape().str());
  return scaled_sum("mean", x, 1.0 / static_cast<double>(x.numel()));
}

Var sum_last(const Var& x) {
  require_computing("sum_last", x.value());
  require(x.rank() >= 1, "[sum_last] of a shape without dimensions");
  const Tensor y = computed(x.shape().drop_last(), x.value(),
                            [&](auto context, Tensor& out) { sum_last(context, as_rows(x.value()), out); });
  return make_result("sum_last", y, {x}, [shape = x.shape()](const Tensor& dy) {
    return std::vector<Tensor>{repeated(dy, 1, shape)};
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
