// The optimizers. Each says in one file, once for all devices, its settings and
//   kState      names of the tensors that it keeps for a parameter, of its shape and zero at first
//   rates       numbers of a step, made on the host: first the learning rate. Steps count from 1
//   update<T>   numbers of a step and a parameter in its type T, from the rates, a factor for gradients, the
//               parameter's factor of the learning rate and its weight decay
//   Update<T>   updates one element: takes its gradient, its value and a number of each state
// The kernel optimizer_step (kernels.inc) does the rest.
#pragma once

#include <variant>

#include "core/optimizers/adamw.h"
#include "core/optimizers/sgd.h"

namespace filigree {

using OptimizerRule = std::variant<AdamW, Sgd, MomentumSgd>;
inline constexpr int kStepRates = 3;
inline constexpr int kMostState = 2;

}  // namespace filigree
