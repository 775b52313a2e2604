// Vectors for the tile kernels, by GCC's vector extension: the same source is AVX-512, AVX2, SSE2 or NEON
// code.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace filigree::cpu {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

// A line is one cache line of elements, and kVectors vectors. It is the unit of every tile buffer.
inline constexpr int kLineBytes = 64;
inline constexpr int kVectors = kLineBytes / kVectorBytes;
template <class T>
inline constexpr int kLine = kLineBytes / static_cast<int>(sizeof(T));
template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
using Unsigned = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
template <class T>
using Signed = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

template <class T>
inline Vector<T> load(const T* p) {  // any alignment
  Vector<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store(T* p, Vector<T> v) {
  std::memcpy(p, &v, sizeof v);
}
template <class T>
inline Vector<T> broadcast(T x) {
  return x - Vector<T>{};
}
template <class T>
inline Vector<T> max(Vector<T> a, Vector<T> b) {
  return a > b ? a : b;
}
template <class T>
inline T sum_lanes(Vector<T> v) {
  T s = v[0];
  for (int i = 1; i < kLanes<T>; ++i) s += v[i];
  return s;
}
template <class T>
inline T max_lanes(Vector<T> v) {
  T m = v[0];
  for (int i = 1; i < kLanes<T>; ++i) m = v[i] > m ? v[i] : m;
  return m;
}
// 0, 1, 2, ...
template <class T>
inline Vector<T> iota() {
  Vector<T> v{};
  for (int i = 0; i < kLanes<T>; ++i) v[i] = static_cast<T>(i);
  return v;
}

// Keeps lane i where bit i of `bits` is set; the other lanes become `otherwise`.
template <class T>
inline Vector<T> keep(std::uint64_t bits, Vector<T> v, Vector<T> otherwise) {
  Vector<Unsigned<T>> lane_bit{};
  for (int i = 0; i < kLanes<T>; ++i) lane_bit[i] = Unsigned<T>{1} << i;
  const Vector<Unsigned<T>> set = broadcast(static_cast<Unsigned<T>>(bits)) & lane_bit;
  return set == lane_bit ? v : otherwise;
}

// Transposes the square whose rows are v[0], v[1], ...: blocks of half its size change places, then the
// blocks within each half, and so on down to single lanes.
template <class T>
inline void transpose(Vector<T> (&v)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  using Indices = Vector<Signed<T>>;
#pragma GCC unroll 4
  for (int width = n / 2; width >= 1; width /= 2) {
    Indices low{}, high{};  // lanes of a pair of rows, n + i for lane i of the second
    for (int i = 0; i < n; ++i) {
      low[i] = i & width ? n + i - width : i;
      high[i] = i & width ? n + i : i + width;
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) {
      if (i & width) continue;
      const Vector<T> first = v[i], second = v[i + width];
      v[i] = __builtin_shuffle(first, second, low);
      v[i + width] = __builtin_shuffle(first, second, high);
    }
  }
}

// 2^x for x <= 127 (f32) or 1023 (f64); 0 below -125 or -1021, where it would soon be subnormal; NaN for NaN.
// core/cpu/vector_math.h has an e^x for all arguments; the softmax needs only these, at half the operations.
// Method: x = n + f with |f| <= 1/2, Taylor polynomial of 2^f (relative error 1.2e-7 in f32, 5e-17 in f64),
// and n added to the exponent's bits.
template <class T>
inline Vector<T> exp2(Vector<T> x) {
  constexpr bool kSingle = sizeof(T) == 4;
  constexpr int kDegree = kSingle ? 6 : 13, kMantissa = kSingle ? 23 : 52;
  constexpr T kRound =
      kSingle ? T(0x1.8p23) : T(0x1.8p52);  // adding it rounds to an integer, in the low bits
  constexpr T kLeast = kSingle ? T(-125) : T(-1021);
  struct Taylor {
    T c[kDegree + 1];
    constexpr Taylor() : c() {
      double term = 1;
      for (int k = 0; k <= kDegree; ++k) {
        c[k] = static_cast<T>(term);
        term *= 0.693147180559945309417 / (k + 1);
      }
    }
  };
  constexpr Taylor kTaylor;
  const Vector<T> shifted = x + kRound;
  const Vector<T> f = x - (shifted - kRound);
  Vector<T> p = broadcast(kTaylor.c[kDegree]);
  for (int k = kDegree - 1; k >= 0; --k) p = p * f + kTaylor.c[k];
  const auto exponent = std::bit_cast<Vector<Unsigned<T>>>(shifted) << kMantissa;
  const auto y = std::bit_cast<Vector<T>>(std::bit_cast<Vector<Unsigned<T>>>(p) + exponent);
  return x < kLeast ? Vector<T>{} : y;
}

}  // namespace filigree::cpu
