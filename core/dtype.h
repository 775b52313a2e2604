// Element types. CPU kernels compute in f32 (training) or f64 (gradient checks), CUDA's in bf16 as well;
// elsewhere bf16 is for storage.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "core/check.h"

namespace filigree {

enum class DType : std::uint8_t { f32, f64, bf16, i32, i64, u8, u16, u32 };

// Upper half of an IEEE single, rounded to nearest even.
struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float x) {
    auto u = std::bit_cast<std::uint32_t>(x);
    const bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = is_nan ? static_cast<std::uint16_t>((u >> 16) | 0x40u)
                  : static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

// Calls f with a value of the dtype's C++ type: with_dtype(t, [&]<class T>(T) { ... }).
template <class F>
constexpr decltype(auto) with_dtype(DType type, F&& f) {
  switch (type) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    case DType::bf16:
      return f(bf16{});
    case DType::i32:
      return f(std::int32_t{});
    case DType::i64:
      return f(std::int64_t{});
    case DType::u8:
      return f(std::uint8_t{});
    case DType::u16:
      return f(std::uint16_t{});
    case DType::u32:
      break;
  }
  return f(std::uint32_t{});
}

inline constexpr std::array kDTypes = {DType::f32, DType::f64, DType::bf16, DType::i32,
                                       DType::i64, DType::u8,  DType::u16,  DType::u32};

constexpr const char* dtype_name(DType type) {
  constexpr std::array names = {"f32", "f64", "bf16", "i32", "i64", "u8", "u16", "u32"};
  return names[static_cast<std::size_t>(type)];
}

constexpr std::int64_t dtype_size(DType type) {
  return with_dtype(type, [](auto x) { return static_cast<std::int64_t>(sizeof(x)); });
}

template <class T>
constexpr DType dtype_of() {
  constexpr auto found = std::ranges::find_if(
      kDTypes, [](DType type) { return with_dtype(type, []<class U>(U) { return std::is_same_v<T, U>; }); });
  static_assert(found != kDTypes.end(), "no dtype has this C++ type");
  return *found;
}

// Sums of elements of this type are kept in this one.
constexpr DType accumulation_dtype(DType type) {
  return type == DType::bf16 ? DType::f32 : type;
}

// Calls f with a value of the C++ type of a computing dtype: with_float(t, [&](auto zero) { ... }).
template <class F>
decltype(auto) with_float(DType type, F&& f) {
  if (type == DType::f64) return f(double{});
  check(type == DType::f32, "a computing kernel was given a storage dtype");
  return f(float{});
}

}  // namespace filigree
