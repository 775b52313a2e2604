#include <algorithm>

#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {

void fill(Context, double value, Tensor& y) {
  with_dtype(y.dtype(), [&]<class T>(T) {
    if constexpr (std::is_same_v<T, bf16>)
      std::fill_n(y.data<T>(), y.numel(), bf16(static_cast<float>(value)));
    else
      std::fill_n(y.data<T>(), y.numel(), static_cast<T>(value));
  });
}

}  // namespace filigree::cpu
