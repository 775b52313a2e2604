#include "train/optimizer.h"

#include <cmath>

#include "core/kernels.h"
#include "core/ops.h"

namespace filigree {

double clip_scale(double norm, double clip) {
  return clip > 0 && norm > clip ? clip / norm : 1;
}

Optimizer::Optimizer(const TrainConfig& config, std::vector<Parameter*> parameters)
    : type_(config.optimizer),
      beta1_(config.betas[0]),
      beta2_(config.betas[1]),
      eps_(config.eps),
      momentum_(config.momentum),
      weight_decay_(config.weight_decay) {
  const bool adamw = type_ == OptimizerType::adamw;
  for (Parameter* p : parameters) {
    Slot slot{p, {}, {}};
    if (adamw || momentum_ != 0) slot.m = Tensor::zeros_like(p->var.value());
    if (adamw) slot.v = Tensor::zeros_like(p->var.value());
    slots_.push_back(std::move(slot));
  }
}

double Optimizer::gradient_norm() const {
  double sum = 0;
  for (const Slot& s : slots_)
    if (s.parameter->var.grad().defined()) sum += ops::sum_of_squares(s.parameter->var.grad());
  return std::sqrt(sum);
}

std::string Optimizer::non_finite_gradient() const {
  for (auto s = slots_.rbegin(); s != slots_.rend(); ++s) {
    const Tensor& grad = s->parameter->var.grad();
    if (grad.defined() && !ops::all_finite(grad)) return s->parameter->name;
  }
  return "";
}

void Optimizer::step(double lr, double grad_scale) {
  ++steps_;
  for (Slot& s : slots_) {
    const Tensor& grad = s.parameter->var.grad();
    if (!grad.defined()) continue;
    Tensor& w = s.parameter->var.value();
    const double rate = lr * s.parameter->lr_factor, decay = s.parameter->decay ? weight_decay_ : 0;
    on_device(w.device(), [&](auto context) {
      if (type_ == OptimizerType::adamw)
        adamw_step(context, {rate, beta1_, beta2_, eps_, decay, steps_, grad_scale}, grad, w, s.m, s.v);
      else
        sgd_step(context, {rate, momentum_, decay, grad_scale}, grad, w, s.m);
    });
  }
}

void Optimizer::zero_grad() {
  for (Slot& s : slots_) s.parameter->var.zero_grad();
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const Slot& s : slots_) {
    if (s.m.defined()) tensors.emplace_back("optimizer.m." + s.parameter->name, s.m);
    if (s.v.defined()) tensors.emplace_back("optimizer.v." + s.parameter->name, s.v);
  }
  return tensors;
}

}  // namespace filigree
