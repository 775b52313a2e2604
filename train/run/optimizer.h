// The optimizers (core/optimizers/) of named parameters: the run's, and one of each of its groups.
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
  // Uses the OptimizerConfig and the groups. The parameters outlive the optimizer; their `decay`, `lr_factor`
  // and `in_norm` are read at every step. Error(usage) where a group names no parameter.
  Optimizer(const TrainConfig& config, std::vector<Parameter*> parameters);

  // Over all gradients with the given Parameter::in_norm, f64 [1] on their device, in a fixed order. Not
  // finite exactly if one of them is not; undefined if there are none.
  Tensor sum_of_squares(bool in_norm = true) const;
  // The name of the parameter where backward first met a value that is not finite: gradients are made from
  // the last parameter to the first, so the last one. Empty if all are finite.
  std::string non_finite_gradient() const;
  // StepControl::rates of the step that comes next, which is counted as taken: kStepRates of the run, then
  // of each group.
  std::vector<double> next_rates(double lr);
  std::int64_t n_rates() const { return std::ssize(groups_) * kStepRates; }
  // Updates every parameter that has a gradient, with the learning rate times its and its group's lr_factor.
  // control.rates are those of next_rates.
  void step(const StepControl& control);
  void zero_grad();

  // Steps counted: AdamW's bias correction depends on it.
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  // What the optimizer keeps as named tensors, "optimizer.m.<parameter>", in the order of the
  // parameters. They share storage with the optimizer: a checkpoint is loaded by copying into them.
  std::vector<std::pair<std::string, Tensor>> state() const;

 private:
  struct Group {
    OptimizerRule rule;
    double lr_factor, weight_decay;
  };
  struct Slot {
    Parameter* parameter;
    std::int64_t group;
    std::array<Tensor, kMostState> state;
  };
  std::vector<Group> groups_;  // the first one is the run's own
  std::int64_t steps_ = 0;
  std::vector<Slot> slots_;
};

}  // namespace filigree
