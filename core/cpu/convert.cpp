// Conversions between f32, f64 and bf16.
#include <type_traits>

#include "core/cpu/partition.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {
namespace {

template <class F>
void with_stored(DType type, F&& f) {
  if (type == DType::bf16) return f(bf16{});
  with_float(type, f);
}

template <class To, class From>
To converted(From x) {
  if constexpr (std::is_same_v<From, bf16>) {
    return static_cast<To>(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, bf16>) {
    return bf16(static_cast<float>(x));
  } else {
    return static_cast<To>(x);
  }
}

}  // namespace

void convert(Context, const Tensor& x, Tensor& y) {
  with_stored(x.dtype(), [&]<class From>(From) {
    with_stored(y.dtype(), [&]<class To>(To) {
      if constexpr (!std::is_same_v<From, To>) {
        const From* from = x.data<From>();
        To* to = y.data<To>();
        parallel_elements(x.numel(), [=](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) to[i] = converted<To>(from[i]);
        });
      }
    });
  });
}

}  // namespace filigree::cpu
