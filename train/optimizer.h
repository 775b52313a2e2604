// AdamW (Loshchilov & Hutter 2019) and SGD with momentum over named parameters.
//
// A step, in the order in which the trainer takes it:
//   const double norm = optimizer.gradient_norm();
//   if (!std::isfinite(norm)) ... optimizer.non_finite_gradient() names the culprit; nothing has changed yet
//   optimizer.step(lr, clip_scale(norm, clip));
//   optimizer.zero_grad();
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "layers/module.h"
#include "train/config.h"

namespace filigree {

// What gradients are multiplied by so that their norm is at most `clip`; clip 0 means no clipping.
double clip_scale(double norm, double clip);

class Optimizer {
 public:
  // Uses optimizer, betas, eps, momentum and weight_decay of the config. The parameters outlive the
  // optimizer; their `decay` and `lr_factor` are read at every step.
  Optimizer(const TrainConfig& config, std::vector<Parameter*> parameters);

  // Euclidean norm of all gradients, in f64 and in a fixed order. Not finite exactly if a gradient is not.
  double gradient_norm() const;
  // The name of the parameter where backward first met a value that is not finite: gradients are made from
  // the last parameter to the first, so the last one. Empty if all are finite.
  std::string non_finite_gradient() const;
  // Updates every parameter that has a gradient, with learning rate lr times its lr_factor and the gradient
  // times grad_scale.
  void step(double lr, double grad_scale = 1);
  void zero_grad();

  // Steps taken: AdamW's bias correction depends on it.
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  // The moments as named tensors, "optimizer.m.<parameter>" and, for AdamW, "optimizer.v.<parameter>", in the
  // order of the parameters. They share storage with the optimizer: a checkpoint is loaded by copying into
  // them.
  std::vector<std::pair<std::string, Tensor>> state() const;

 private:
  struct Slot {
    Parameter* parameter;
    Tensor m, v;  // SGD uses m alone, and none without momentum
  };
  OptimizerType type_;
  double beta1_, beta2_, eps_, momentum_, weight_decay_;
  std::int64_t steps_ = 0;
  std::vector<Slot> slots_;
};

}  // namespace filigree
