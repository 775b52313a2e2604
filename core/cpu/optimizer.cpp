// Optimizer steps, one pass over memory each.
#include <cmath>

#include "core/cpu/partition.h"
#include "core/kernels.h"

namespace filigree::cpu {

void adamw_step(Context, const AdamWStep& h, const Tensor& grad, Tensor& w, Tensor& m, Tensor& v) {
  with_float(w.dtype(), [&]<class T>(T) {
    const T* pg = grad.data<T>();
    T *pw = w.data<T>(), *pm = m.data<T>(), *pv = v.data<T>();
    const double correction1 = 1 - std::pow(h.beta1, static_cast<double>(h.step));
    const double correction2 = 1 - std::pow(h.beta2, static_cast<double>(h.step));
    const T scale = static_cast<T>(h.grad_scale), eps = static_cast<T>(h.eps);
    const T beta1 = static_cast<T>(h.beta1), beta2 = static_cast<T>(h.beta2);
    const T rest1 = static_cast<T>(1 - h.beta1), rest2 = static_cast<T>(1 - h.beta2);
    const T keep = static_cast<T>(1 - h.lr * h.weight_decay), rate = static_cast<T>(h.lr / correction1);
    const T root = static_cast<T>(1 / std::sqrt(correction2));
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
  });
}

void sgd_step(Context, const SgdStep& h, const Tensor& grad, Tensor& w, Tensor& u) {
  with_float(w.dtype(), [&]<class T>(T) {
    const T* pg = grad.data<T>();
    T *pw = w.data<T>(), *pu = u.defined() ? u.data<T>() : nullptr;
    const T scale = static_cast<T>(h.grad_scale), decay = static_cast<T>(h.weight_decay);
    const T lr = static_cast<T>(h.lr), momentum = static_cast<T>(h.momentum);
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
  });
}

}  // namespace filigree::cpu
