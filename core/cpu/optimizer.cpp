// Optimizer steps, one pass over memory and one parallel region each.
#include <cmath>

#include "core/cpu/partition.h"
#include "core/cpu/vector_math.h"
#include "core/kernels.h"
#include "core/optimizers/step.h"

namespace filigree::cpu {
namespace {

// Gradients are multiplied by this, so that their norm is at most clip.
double clip_factor(const StepControl& control) {
  const double norm = std::sqrt(control.sum_of_squares.item());
  return control.clip > 0 && norm > control.clip ? control.clip / norm : 1;
}

template <class T, class Rule>
void step(const Rule& rule, const StepControl& control, const OptimizerTensors& t, std::int64_t begin,
          std::int64_t end) {
  constexpr std::size_t kStates = Rule::kState.size();
  const auto update = rule.template update<T>(Math{}, control.rates.data<double>(), clip_factor(control),
                                              t.lr_factor, t.weight_decay);
  const T* pg = t.grad.data<T>();
  Tensor w = t.w;
  std::array<Tensor, kMostState> state = t.state;
  T *pw = w.data<T>(), *first = nullptr, *second = nullptr;
  if constexpr (kStates > 0) first = state[0].data<T>();
  if constexpr (kStates > 1) second = state[1].data<T>();
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) {
    if constexpr (kStates == 0) update(Math{}, pg[i], pw[i]);
    if constexpr (kStates == 1) update(Math{}, pg[i], pw[i], first[i]);
    if constexpr (kStates == 2) update(Math{}, pg[i], pw[i], first[i], second[i]);
  }
}

}  // namespace

void optimizer_step(Context, const OptimizerRule& rule, const StepControl& control,
                    std::span<const OptimizerTensors> tensors) {
  if (control.halted.item() != 0) return;
  const auto parts = parts_of(tensors, [](const OptimizerTensors& t) { return t.w.numel(); });
  std::visit(
      [&](const auto& r) {
        parallel_tasks(std::ssize(parts), [&](std::int64_t i) {
          const OptimizerTensors& t = tensors[parts[i].tensor];
          with_float(t.w.dtype(), [&]<class T>(T) { step<T>(r, control, t, parts[i].begin, parts[i].end); });
        });
      },
      rule);
}

void halt_if_not_finite(Context, const Tensor& loss, const Tensor& sum_of_squares, Tensor& halted) {
  if (!std::isfinite(loss.item()) || !std::isfinite(sum_of_squares.item()))
    halted.data<std::uint32_t>()[0] = 1;
}

}  // namespace filigree::cpu
