// What one step of an optimizer does to one tensor; the kernels that take these are in kernels.inc.
#pragma once

#include <cstdint>

namespace filigree {

// Adam with decoupled weight decay (Loshchilov & Hutter 2019):
//   g = grad_scale * grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   w = w - lr (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay w)
struct AdamWStep {
  double lr = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0;
  std::int64_t step = 1;  // from 1
  double grad_scale = 1;  // for clipping and averaging
};

// g = grad_scale * grad + weight_decay w;  u = momentum u + g;  w = w - lr u
struct SgdStep {
  double lr = 0;
  double momentum = 0;
  double weight_decay = 0;
  double grad_scale = 1;
};

}  // namespace filigree
