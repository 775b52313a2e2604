// Operations on tensors that no tape records: on gradients and parameters.
#pragma once

#include <span>

#include "core/tensor.h"

namespace filigree::ops {

void add_in_place(Tensor& into, const Tensor& x);  // into += x
// Over all tensors, f64 [1] on their device: accumulated in f64, in a fixed order.
Tensor sum_of_squares(std::span<const Tensor> tensors, Device device);
bool all_finite(const Tensor& x);

}  // namespace filigree::ops
