#include <algorithm>

#include "core/kernels.h"

namespace filigree::cpu {

void fill(Context, double value, Tensor& y) {
  const auto n = static_cast<std::size_t>(y.numel());
  switch (y.dtype()) {
    case DType::f32:
      std::fill_n(y.data<float>(), n, static_cast<float>(value));
      break;
    case DType::f64:
      std::fill_n(y.data<double>(), n, value);
      break;
    case DType::bf16:
      std::fill_n(y.data<bf16>(), n, bf16(static_cast<float>(value)));
      break;
    case DType::i32:
      std::fill_n(y.data<std::int32_t>(), n, static_cast<std::int32_t>(value));
      break;
    case DType::i64:
      std::fill_n(y.data<std::int64_t>(), n, static_cast<std::int64_t>(value));
      break;
    case DType::u8:
      std::fill_n(y.data<std::uint8_t>(), n, static_cast<std::uint8_t>(value));
      break;
    case DType::u16:
      std::fill_n(y.data<std::uint16_t>(), n, static_cast<std::uint16_t>(value));
      break;
    case DType::u32:
      std::fill_n(y.data<std::uint32_t>(), n, static_cast<std::uint32_t>(value));
      break;
  }
}

}  // namespace filigree::cpu
