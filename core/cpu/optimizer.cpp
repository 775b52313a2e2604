// Optimizer steps, one pass over memory each.
#include <cmath>

#include "core/cpu/partition.h"
#include "core/kernels.h"

namespace filigree::cpu {
namespace {

// What gradients are multiplied by so that their norm is at most clip.
double clip_factor(const StepControl& control) {
  const double norm = std::sqrt(control.sum_of_squares.item());
  return control.clip > 0 && norm > control.clip ? control.clip / norm : 1;
}

bool halted(const StepControl& control) {
  return control.halted.item() != 0;
}

template <class T>
void adamw(const AdamWStep& h, const OptimizerTensors& t) {
  const T* pg = t.grad.data<T>();
  Tensor w = t.w, m = t.m, v = t.v;
  T *pw = w.data<T>(), *pm = m.data<T>(), *pv = v.data<T>();
  const double* rates = h.control.rates.data<double>();
  const double lr = rates[0] * t.lr_factor;
  const T scale = static_cast<T>(clip_factor(h.control)), eps = static_cast<T>(h.eps);
  const T beta1 = static_cast<T>(h.beta1), beta2 = static_cast<T>(h.beta2);
  const T rest1 = static_cast<T>(1 - h.beta1), rest2 = static_cast<T>(1 - h.beta2);
  const T keep = static_cast<T>(1 - lr * t.weight_decay), rate = static_cast<T>(lr / rates[1]);
  const T root = static_cast<T>(1 / std::sqrt(rates[2]));
  parallel_elements(w.numel(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const T g = pg[i] * scale;
      const T first = beta1 * pm[i] + rest1 * g;
      const T second = beta2 * pv[i] + rest2 * (g * g);
      pm[i] = first;
      pv[i] = second;
      pw[i] = keep * pw[i] - rate * first / (std::sqrt(second) * root + eps);
    }
  });
}

template <class T>
void sgd(const SgdStep& h, const OptimizerTensors& t) {
  const T* pg = t.grad.data<T>();
  Tensor w = t.w, u = t.m;
  T *pw = w.data<T>(), *pu = u.defined() ? u.data<T>() : nullptr;
  const T scale = static_cast<T>(clip_factor(h.control)), decay = static_cast<T>(t.weight_decay);
  const T lr = static_cast<T>(h.control.rates.item(0) * t.lr_factor), momentum = static_cast<T>(h.momentum);
  parallel_elements(w.numel(), [=](std::int64_t begin, std::int64_t end) {
    if (!pu) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) pw[i] -= lr * (pg[i] * scale + decay * pw[i]);
      return;
    }
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      pu[i] = momentum * pu[i] + (pg[i] * scale + decay * pw[i]);
      pw[i] -= lr * pu[i];
    }
  });
}

}  // namespace

void adamw_step(Context, const AdamWStep& step, std::span<const OptimizerTensors> tensors) {
  if (halted(step.control)) return;
  for (const OptimizerTensors& t : tensors) with_float(t.w.dtype(), [&]<class T>(T) { adamw<T>(step, t); });
}

void sgd_step(Context, const SgdStep& step, std::span<const OptimizerTensors> tensors) {
  if (halted(step.control)) return;
  for (const OptimizerTensors& t : tensors) with_float(t.w.dtype(), [&]<class T>(T) { sgd<T>(step, t); });
}

void halt_if_not_finite(Context, const Tensor& loss, const Tensor& sum_of_squares, Tensor& halted) {
  if (!std::isfinite(loss.item()) || !std::isfinite(sum_of_squares.item()))
    halted.data<std::uint32_t>()[0] = 1;
}

}  // namespace filigree::cpu
