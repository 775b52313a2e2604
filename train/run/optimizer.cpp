#include "train/run/optimizer.h"

#include <cmath>

#include "core/kernels.h"
#include "core/ops.h"

namespace filigree {

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

Tensor Optimizer::sum_of_squares(bool in_norm) const {
  std::vector<Tensor> grads;
  bool any = false;
  for (const Slot& s : slots_) {
    if (s.parameter->in_norm != in_norm) continue;
    any = true;
    if (s.parameter->var.grad().defined()) grads.push_back(s.parameter->var.grad());
  }
  if (!any) return {};
  return ops::sum_of_squares(grads, slots_.at(0).parameter->var.device());
}

double Optimizer::gradient_norm() const {
  return std::sqrt(sum_of_squares().item());
}

std::string Optimizer::non_finite_gradient() const {
  for (auto s = slots_.rbegin(); s != slots_.rend(); ++s) {
    const Tensor& grad = s->parameter->var.grad();
    if (grad.defined() && !ops::all_finite(grad)) return s->parameter->name;
  }
  return "";
}

std::array<double, 3> Optimizer::next_rates(double lr) {
  ++steps_;
  const auto count = static_cast<double>(steps_);
  return {lr, 1 - std::pow(beta1_, count), 1 - std::pow(beta2_, count)};
}

void Optimizer::step(const StepControl& control) {
  std::vector<OptimizerTensors> tensors;
  for (const Slot& s : slots_) {
    const Parameter& p = *s.parameter;
    if (p.var.grad().defined())
      tensors.push_back({p.var.grad(), p.var.value(), s.m, s.v, p.lr_factor, p.decay ? weight_decay_ : 0});
  }
  on_device(control.rates.device(), [&](auto context) {
    if (type_ == OptimizerType::adamw)
      adamw_step(context, {control, beta1_, beta2_, eps_}, tensors);
    else
      sgd_step(context, {control, momentum_}, tensors);
  });
}

void Optimizer::step(double lr, double clip) {
  const auto rates = next_rates(lr);
  const Device device = slots_.at(0).parameter->var.device();
  step({Tensor::of<double>({3}, rates, device), sum_of_squares(), Tensor::zeros({1}, DType::u32, device),
        clip});
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
