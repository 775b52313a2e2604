// Functions of each element (core/elementwise.h), and swiglu's gradients.
#include <vector>

#include "core/cpu/partition.h"
#include "core/cpu/vector_math.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {
namespace {

// y[i] = f(a[i], b[i % period]). A short b is repeated first, so that the inner loop is long.
template <class T, class F>
void map_repeated(std::int64_t n, const T* a, const T* b, std::int64_t period, T* y, F f) {
  constexpr std::int64_t kLong = 512;
  if (n == 0) return;
  std::vector<T> repeated;
  if (period < kLong && period < n) {
    repeated.reserve(kLong + period);
    while (std::ssize(repeated) < kLong) repeated.insert(repeated.end(), b, b + period);
    b = repeated.data();
    period = std::ssize(repeated);
  }
  parallel_elements(n, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end;) {
      const std::int64_t phase = i % period, count = std::min(period - phase, end - i);
      const T *pa = a + i, *pb = b + phase;
      T* py = y + i;
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) py[j] = f(Math{}, pa[j], pb[j]);
      i += count;
    }
  });
}

}  // namespace

void map(Context, const elementwise::Unary& function, const Tensor& x, Tensor& y) {
  std::visit(
      [&](auto f) {
        with_float(x.dtype(), [&]<class T>(T) {
          const T* px = x.data<T>();
          T* py = y.data<T>();
          parallel_elements(x.numel(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
            for (std::int64_t i = begin; i < end; ++i) py[i] = f(Math{}, px[i]);
          });
        });
      },
      function);
}

void map(Context, const elementwise::Binary& function, const Tensor& a, const Tensor& b, Tensor& y) {
  std::visit(
      [&](auto f) {
        with_float(a.dtype(), [&]<class T>(T) {
          map_repeated(a.numel(), a.data<T>(), b.data<T>(), b.numel(), y.data<T>(), f);
        });
      },
      function);
}

void swiglu_backward(Context, const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                     Tensor& dup) {
  with_float(gate.dtype(), [&]<class T>(T) {
    const T *pdy = dy.data<T>(), *pg = gate.data<T>(), *pu = up.data<T>();
    T *pdg = dgate.data<T>(), *pdu = dup.data<T>();
    parallel_elements(gate.numel(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        T of_gate, of_up;
        elementwise::swiglu_gradient(Math{}, pdy[i], pg[i], pu[i], of_gate, of_up);
        pdg[i] = of_gate;
        pdu[i] = of_up;
      }
    });
  });
}

}  // namespace filigree::cpu
