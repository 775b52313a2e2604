// An optimizer (core/optimizers/) over named parameters.
//
// A step happens on the parameters' device without waiting for it: train/run/step.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/module.h"
#include "core/optimizers/step.h"
#include "train/config/config.h"

namespace filigree {

class Optimizer {
 public:
  // Uses optimizer, betas, eps, momentum and weight_decay of the config. The parameters outlive the
  // optimizer; their `decay`, `lr_factor` and `in_norm` are read at every step.
  Optimizer(const TrainConfig& config, std::vector<Parameter*> parameters);

  // Over all gradients with the given Parameter::in_norm, f64 [1] on their device, in a fixed order. Not
  // finite exactly if one of them is not; undefined if there are none.
  Tensor sum_of_squares(bool in_norm = true) const;
  // The name of the parameter where backward first met a value that is not finite: gradients are made from
  // the last parameter to the first, so the last one. Empty if all are finite.
  std::string non_finite_gradient() const;
  // StepControl::rates of the step that comes next, which is counted as taken.
  std::array<double, kStepRates> next_rates(double lr);
  // Updates every parameter that has a gradient, with the learning rate times its lr_factor.
  void step(const StepControl& control);
  void zero_grad();

  // Steps counted: AdamW's bias correction depends on it.
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  // What the optimizer keeps as named tensors, "optimizer.m.<parameter>", in the order of the
  // parameters. They share storage with the optimizer: a checkpoint is loaded by copying into them.
  std::vector<std::pair<std::string, Tensor>> state() const;

 private:
  struct Slot {
    Parameter* parameter;
    std::array<Tensor, kMostState> state;
  };
  OptimizerRule rule_;
  double weight_decay_;
  std::int64_t steps_ = 0;
  std::vector<Slot> slots_;
};

}  // namespace filigree
