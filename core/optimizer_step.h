// What one step of an optimizer does; the kernels that take these are in kernels.inc.
//
// What changes from step to step lies in tensors on the parameters' device, so that a captured graph can be
// launched again and nobody waits for the gradient's norm:
//   g = grad * min(1, clip / sqrt(sum_of_squares)), clip 0: off
// If halted[0] is not 0, nothing is written.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace filigree {

struct StepControl {
  Tensor rates;           // f64 [3]: lr, 1 - beta1^step, 1 - beta2^step (SGD: lr only); steps count from 1
  Tensor sum_of_squares;  // f64 [1], of all gradients
  Tensor halted;          // u32 [1]
  double clip = 0;
};

// Adam with decoupled weight decay (Loshchilov & Hutter 2019):
//   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   w = w - lr (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay w)
struct AdamWStep {
  StepControl control;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
};

// g += weight_decay w;  u = momentum u + g;  w = w - lr u
struct SgdStep {
  StepControl control;
  double momentum = 0;
};

// One parameter, f32 or f64. Without momentum SGD has no m; only AdamW has v.
struct OptimizerTensors {
  Tensor grad, w, m, v;
  double lr_factor = 1;
  double weight_decay = 0;
};

}  // namespace filigree
