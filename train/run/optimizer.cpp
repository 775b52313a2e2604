#include "train/run/optimizer.h"

#include "core/kernels.h"
#include "core/tensor_ops.h"

namespace filigree {
namespace {

OptimizerRule rule_of(const TrainConfig& config) {
  if (config.optimizer == OptimizerType::adamw) return AdamW{config.betas[0], config.betas[1], config.eps};
  if (config.momentum != 0) return MomentumSgd{config.momentum};
  return Sgd{};
}

std::span<const char* const> state_names(const OptimizerRule& rule) {
  return std::visit([](const auto& r) { return std::span<const char* const>(r.kState); }, rule);
}

}  // namespace

Optimizer::Optimizer(const TrainConfig& config, std::vector<Parameter*> parameters)
    : rule_(rule_of(config)), weight_decay_(config.weight_decay) {
  for (Parameter* p : parameters) {
    Slot slot{p, {}};
    for (std::size_t i = 0; i < state_names(rule_).size(); ++i)
      slot.state[i] = Tensor::zeros_like(p->var.value());
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

std::string Optimizer::non_finite_gradient() const {
  for (auto s = slots_.rbegin(); s != slots_.rend(); ++s) {
    const Tensor& grad = s->parameter->var.grad();
    if (grad.defined() && !ops::all_finite(grad)) return s->parameter->name;
  }
  return "";
}

std::array<double, kStepRates> Optimizer::next_rates(double lr) {
  ++steps_;
  return std::visit([&](const auto& r) { return r.rates(lr, steps_); }, rule_);
}

void Optimizer::step(const StepControl& control) {
  std::vector<OptimizerTensors> tensors;
  for (const Slot& s : slots_) {
    const Parameter& p = *s.parameter;
    if (p.var.grad().defined())
      tensors.push_back({p.var.grad(), p.var.value(), s.state, p.lr_factor, p.decay ? weight_decay_ : 0});
  }
  on_device(control.rates.device(), [&](auto context) { optimizer_step(context, rule_, control, tensors); });
}

void Optimizer::zero_grad() {
  for (Slot& s : slots_) s.parameter->var.zero_grad();
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  const auto names = state_names(rule_);
  for (const Slot& s : slots_)
    for (std::size_t i = 0; i < names.size(); ++i)
      tensors.emplace_back(fmt::format("optimizer.{}.{}", names[i], s.parameter->name), s.state[i]);
  return tensors;
}

}  // namespace filigree
