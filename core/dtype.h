// Element types. CPU kernels compute in f32 (training) or f64 (gradient checks), CUDA's in bf16 as well;
// elsewhere bf16 is for storage.
#pragma once

#include <bit>
#include <cstdint>

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

constexpr std::int64_t dtype_size(DType type) {
  switch (type) {
    case DType::u8:
      return 1;
    case DType::bf16:
    case DType::u16:
      return 2;
    case DType::f32:
    case DType::i32:
    case DType::u32:
      return 4;
    case DType::f64:
    case DType::i64:
      return 8;
  }
  return 0;
}

constexpr const char* dtype_name(DType type) {
  switch (type) {
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::bf16:
      return "bf16";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
    case DType::u8:
      return "u8";
    case DType::u16:
      return "u16";
    case DType::u32:
      return "u32";
  }
  return "?";
}

// What sums beside elements of this type are kept in.
constexpr DType accumulation_dtype(DType type) {
  return type == DType::bf16 ? DType::f32 : type;
}

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::f64;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<std::int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<std::int64_t>() {
  return DType::i64;
}
template <>
constexpr DType dtype_of<std::uint8_t>() {
  return DType::u8;
}
template <>
constexpr DType dtype_of<std::uint16_t>() {
  return DType::u16;
}
template <>
constexpr DType dtype_of<std::uint32_t>() {
  return DType::u32;
}

// Calls f with a value of the C++ type of a computing dtype: with_float(t, [&](auto zero) { ... }).
template <class F>
decltype(auto) with_float(DType type, F&& f) {
  if (type == DType::f64) return f(double{});
  check(type == DType::f32, "a computing kernel was given a storage dtype");
  return f(float{});
}

}  // namespace filigree
