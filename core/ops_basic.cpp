// Ops outside the tape: on gradients and parameters.
#include "core/kernels.h"
#include "core/ops.h"

namespace filigree::ops {

void add_in_place(Tensor& into, const Tensor& x) {
  require(into.shape() == x.shape() && into.dtype() == x.dtype() && into.device() == x.device(),
          "[add_in_place] {} {} += {} {}", dtype_name(into.dtype()), into.shape().str(),
          dtype_name(x.dtype()), x.shape().str());
  on_device(x.device(), [&](auto context) { add_in_place(context, x, into); });
}

void scale_in_place(Tensor& x, double factor) {
  on_device(x.device(), [&](auto context) { scale_in_place(context, factor, x); });
}

double sum_of_squares(const Tensor& x) {
  return sum_of_squares(std::span(&x, 1), x.device()).item();
}

Tensor sum_of_squares(std::span<const Tensor> tensors, Device device) {
  Tensor result = Tensor::empty({1}, DType::f64, device);
  on_device(device, [&](auto context) { sum_of_squares(context, tensors, result); });
  return result;
}

bool all_finite(const Tensor& x) {
  bool result = true;
  on_device(x.device(), [&](auto context) { all_finite(context, x, result); });
  return result;
}

}  // namespace filigree::ops
