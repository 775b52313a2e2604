// The data of one step of an optimizer.
//
// Numbers that change from step to step lie in tensors on the parameters' device, so that a captured graph
// can be launched again and nobody waits for the gradient's norm:
//   g = grad * min(1, clip / sqrt(sum_of_squares)), clip 0: off
// If halted[0] is not 0, nothing is written.
#pragma once

#include <array>

#include "core/optimizers/rules.h"
#include "core/tensor.h"

namespace filigree {

struct StepControl {
  Tensor rates;           // f64 [kStepRates], as the optimizer's rates() makes them
  Tensor sum_of_squares;  // f64 [1], of all gradients
  Tensor halted;          // u32 [1]
  double clip = 0;
};

// One parameter, f32 or f64.
struct OptimizerTensors {
  Tensor grad, w;
  std::array<Tensor, kMostState> state;  // the first ones, in the order of the optimizer's kState
  double lr_factor = 1;
  double weight_decay = 0;
};

}  // namespace filigree
