#include "train/run/optimizer.h"

#include <fnmatch.h>

#include <regex>
#include <stdexcept>

#include "core/kernels.h"
#include "core/tensor_ops.h"

namespace filigree {
namespace {

OptimizerRule rule_of(const OptimizerConfig& config) {
  switch (config.optimizer) {  // without a default: the compiler names a forgotten optimizer
    case OptimizerType::adamw:
      return AdamW{config.betas[0], config.betas[1], config.eps};
    case OptimizerType::sgd:
      if (config.momentum != 0) return MomentumSgd{config.momentum};
      return Sgd{};
  }
  throw std::logic_error("no such optimizer");
}

std::span<const char* const> state_names(const OptimizerRule& rule) {
  return std::visit([](const auto& r) { return std::span<const char* const>(r.kState); }, rule);
}

// A pattern that decides for no parameter is a mistake.
[[noreturn]] void refuse(const YamlNode& pattern, const std::vector<Parameter*>& parameters,
                         bool names_some) {
  if (names_some)
    fail_at(pattern.mark,
            fmt::format("train.groups: all that '{}' names is of earlier groups", pattern.scalar),
            "put the group that names less before the one that names more");
  std::vector<std::string> known;
  for (const Parameter* p : parameters) {
    known.push_back(p->name);
    known.push_back(std::regex_replace(p->name, std::regex("[0-9]+"), "*"));
  }
  const std::string near = nearest(pattern.scalar, known);
  fail_at(
      pattern.mark, fmt::format("train.groups: '{}' names no parameter", pattern.scalar),
      near.empty() ? "filigree train CONFIG --dry-run lists them" : fmt::format("did you mean '{}'?", near));
}

// The group of each parameter: 0, or 1 + the first one that names it.
std::vector<std::int64_t> groups_of(const std::vector<Parameter*>& parameters,
                                    const std::vector<ParameterGroup>& groups) {
  std::vector<std::int64_t> of(parameters.size(), 0);
  for (std::int64_t g = 0; g < std::ssize(groups); ++g)
    for (const YamlNode& pattern : groups[g].names) {
      bool names_some = false, decides = false;
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        if (::fnmatch(pattern.scalar.c_str(), parameters[i]->name.c_str(), 0) != 0) continue;
        names_some = true;
        if (of[i] == 0) of[i] = g + 1;
        decides = decides || of[i] == g + 1;
      }
      if (!decides) refuse(pattern, parameters, names_some);
    }
  return of;
}

}  // namespace

Optimizer::Optimizer(const TrainConfig& config, std::vector<Parameter*> parameters)
    : groups_{{rule_of(config), 1, config.weight_decay}} {
  for (const ParameterGroup& group : config.groups)
    groups_.push_back({rule_of(group), group.lr_factor, group.weight_decay});
  const std::vector<std::int64_t> of = groups_of(parameters, config.groups);
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    Slot slot{parameters[p], of[p], {}};
    for (std::size_t i = 0; i < state_names(groups_[of[p]].rule).size(); ++i)
      slot.state[i] = Tensor::zeros_like(parameters[p]->var.value());
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

std::vector<double> Optimizer::next_rates(double lr) {
  ++steps_;
  std::vector<double> all;
  for (const Group& group : groups_)
    for (const double rate : std::visit([&](const auto& r) { return r.rates(lr, steps_); }, group.rule))
      all.push_back(rate);
  return all;
}

void Optimizer::step(const StepControl& control) {
  for (std::int64_t g = 0; g < std::ssize(groups_); ++g) {
    const Group& group = groups_[g];
    std::vector<OptimizerTensors> tensors;
    for (const Slot& s : slots_)
      if (const Parameter& p = *s.parameter; s.group == g && p.var.grad().defined())
        tensors.push_back({p.var.grad(), p.var.value(), s.state, p.lr_factor * group.lr_factor,
                           p.decay ? group.weight_decay : 0});
    StepControl its_own = control;
    its_own.rates = control.rates.slice(g * kStepRates, (g + 1) * kStepRates);
    on_device(control.rates.device(),
              [&](auto context) { optimizer_step(context, group.rule, its_own, tensors); });
  }
}

void Optimizer::zero_grad() {
  for (Slot& s : slots_) s.parameter->var.zero_grad();
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const Slot& s : slots_) {
    const auto names = state_names(groups_[s.group].rule);
    for (std::size_t i = 0; i < names.size(); ++i)
      tensors.emplace_back(fmt::format("optimizer.{}.{}", names[i], s.parameter->name), s.state[i]);
  }
  return tensors;
}

}  // namespace filigree
