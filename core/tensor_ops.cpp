#include "core/tensor_ops.h"

#include "core/kernels.h"

namespace filigree::ops {

void add_in_place(Tensor& into, const Tensor& x) {
  require(into.shape() == x.shape() && into.dtype() == x.dtype() && into.device() == x.device(),
          "[add_in_place] {} {} += {} {}", dtype_name(into.dtype()), into.shape().str(),
          dtype_name(x.dtype()), x.shape().str());
  on_device(x.device(), [&](auto context) { map(context, elementwise::Add{}, into, x, into); });
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
