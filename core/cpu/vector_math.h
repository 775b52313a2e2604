// exp, log, erf and sigmoid of one f32, without branches, calls or tables: GCC turns a plain loop
// over them into AVX2 or AVX-512 code (-O3; no -ffast-math), and a loop's scalar tail gives the same bits as
// its vector body.
//   for (std::int64_t i = 0; i < n; ++i) y[i] = math::exp(x[i] - max);
// The f64 overloads call the standard library (gradient checks). Errors: tests/core_vector_math.cpp.
//
// Method: Cody-Waite range reduction, then a polynomial of least maximal error (Remez) found for this file.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace filigree::cpu::math {

// a * b + c: fused where the machine does that in one instruction. Written out, so that the result does not
// depend on which products the compiler chooses to fuse.
inline float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
inline double fma(double a, double b, double c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

namespace detail {

// x = n ln 2 + r with |r| <= ln(2) / 2 (1 + a rounding); expm1_r = e^r - 1.
struct ReducedExp {
  std::int32_t n;
  float expm1_r;
};

// For |x| < 2^21.
inline ReducedExp reduce_exp(float x) {
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer in the low bits
  const float shifted = fma(x, 0x1.715476p0f, kRound);
  const float n = shifted - kRound;
  float r = fma(n, -0x1.62e4p-1f, x);  // ln 2 in two parts; the first times n is exact
  r = fma(n, -0x1.7f7d1cp-20f, r);
  float p = 0x1.6d99a2p-10f;
  p = fma(p, r, 0x1.122882p-7f);
  p = fma(p, r, 0x1.555486p-5f);
  p = fma(p, r, 0x1.5554aep-3f);
  p = fma(p, r, 0.5f);
  const auto bits = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(kRound);
  return {static_cast<std::int32_t>(bits), fma(p, r * r, r)};
}

// 2^n for -126 <= n <= 127.
inline float power_of_two(std::int32_t n) {
  return std::bit_cast<float>((static_cast<std::uint32_t>(n) + 127u) << 23);
}

// e^x - 1 for 0 <= abs(x) <= 87.
inline float expm1(float x) {
  const ReducedExp e = reduce_exp(x);
  const float s = power_of_two(e.n);
  return fma(e.expm1_r, s, s - 1.0f);
}

}  // namespace detail

// 0 for -inf and wherever e^x is below the least normal number (x < -87.34), inf above 88.72, NaN for NaN.
inline float exp(float x) {
  constexpr float kLeast = -0x1.5d589ep6f;  // ln 2^-126, rounded up
  // Clamped, so that no intermediate is subnormal (slow on some machines).
  float clamped = x < kLeast ? kLeast : x;
  clamped = clamped > 88.8f ? 88.8f : clamped;
  const detail::ReducedExp e = detail::reduce_exp(clamped);
  const std::int32_t half = e.n >> 1;  // 2^n in two factors, because 2^128 is no float
  const float low = detail::power_of_two(half);
  const float y = fma(e.expm1_r, low, low) * detail::power_of_two(e.n - half);
  return x < kLeast ? 0.0f : y;
}

// -inf for 0, NaN below.
inline float log(float x) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const bool tiny = x < 0x1p-126f;
  const auto bits = std::bit_cast<std::uint32_t>(tiny ? x * 0x1p23f : x);
  // x = 2^n m with m in [2/3, 4/3).
  const std::int32_t n_raw = static_cast<std::int32_t>(bits - 0x3f2aaaabu) >> 23;
  const float f = std::bit_cast<float>(bits - (static_cast<std::uint32_t>(n_raw) << 23)) - 1.0f;
  const float n = static_cast<float>(n_raw) - (tiny ? 23.0f : 0.0f);
  float p = -0x1.0de2c2p-3f;
  p = fma(p, f, 0x1.1d7e0ep-3f);
  p = fma(p, f, -0x1.f0623ep-4f);
  p = fma(p, f, 0x1.1f0cbap-3f);
  p = fma(p, f, -0x1.55b646p-3f);
  p = fma(p, f, 0x1.99cc4cp-3f);
  p = fma(p, f, -0x1.fffe6ap-3f);
  p = fma(p, f, 0x1.555512p-2f);
  p = fma(p, f, -0.5f);
  float y = fma(n, 0x1.62e4p-1f, fma(p, f * f, fma(n, 0x1.7f7d1cp-20f, f)));
  y = x > 0.0f ? y : (x == 0.0f ? -kInfinity : std::numeric_limits<float>::quiet_NaN());
  return x == kInfinity ? kInfinity : y;
}

// erf(a) = 1 - e^-(a P(a)), a = abs(x), where a P(a) = -log erfc(a).
inline float erf(float x) {
  const float magnitude = __builtin_fabsf(x);
  const float a = magnitude > 3.95f ? 3.95f : magnitude;  // erf(3.95) rounds to 1
  float p = 0x1.3e770cp-20f;
  p = fma(p, a, -0x1.63d55ap-16f);
  p = fma(p, a, 0x1.5d2cacp-13f);
  p = fma(p, a, -0x1.82a97ap-11f);
  p = fma(p, a, 0x1.d635f4p-10f);
  p = fma(p, a, -0x1.037382p-12f);
  p = fma(p, a, -0x1.394656p-6f);
  p = fma(p, a, 0x1.a4f460p-4f);
  p = fma(p, a, 0x1.45f306p-1f);
  p = fma(p, a, 0x1.20dd76p+0f);
  return __builtin_copysignf(-detail::expm1(-p * a), x);
}

// 0 below -88.73, where it would be subnormal.
inline float sigmoid(float x) {
  return 1.0f / (1.0f + exp(-x));
}

inline double exp(double x) {
  return std::exp(x);
}
inline double log(double x) {
  return std::log(x);
}
inline double erf(double x) {
  return std::erf(x);
}
inline double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

}  // namespace filigree::cpu::math

namespace filigree::cpu {

// The mathematics of core/elementwise.h and of optimizers.
struct Math {
  static auto exp(auto x) { return math::exp(x); }
  static auto log(auto x) { return math::log(x); }
  static auto erf(auto x) { return math::erf(x); }
  static auto sqrt(auto x) { return std::sqrt(x); }
  static auto sigmoid(auto x) { return math::sigmoid(x); }
};

}  // namespace filigree::cpu
