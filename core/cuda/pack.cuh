// Packs of elements that move between memory and registers in 16-byte accesses, the widest a thread has. A
// tail that does not fill a pack, and rows that do not begin on 16 bytes, go element by element.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/cuda/cuda.h"

namespace filigree::cuda {

template <class T>
inline constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

// Neighbouring elements, as stored; read and written in the type that they are computed in. Kept as 32-bit
// words, because the compiler would give each bf16 a register of its own.
template <class T, int kSize = kPackSize<T>>
class Pack {
  static_assert(kSize % kPackSize<T> == 0);

 public:
  static constexpr int kWords = kSize * static_cast<int>(sizeof(T)) / 4;
  unsigned words[kWords] = {};

  __device__ compute_t<T> operator[](int i) const {
    if constexpr (std::is_same_v<T, bfloat16>) {
      return __uint_as_float(i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16);
    } else {
      return element(i);
    }
  }
  __device__ void set(int i, compute_t<T> x) { set_element(i, narrow<T>(x)); }

  __device__ T element(int i) const {
    T x;
    if constexpr (sizeof(T) == 2) {
      const auto bits = static_cast<std::uint16_t>(words[i / 2] >> i % 2 * 16);
      std::memcpy(&x, &bits, sizeof(T));
    } else {
      std::memcpy(&x, words + i * kWords / kSize, sizeof(T));
    }
    return x;
  }
  __device__ void set_element(int i, T x) {
    if constexpr (sizeof(T) == 2) {
      std::uint16_t bits;
      std::memcpy(&bits, &x, sizeof(T));
      unsigned& word = words[i / 2];
      word = i % 2 ? (word & 0xffffu) | unsigned{bits} << 16 : (word & 0xffff0000u) | bits;
    } else {
      std::memcpy(words + i * kWords / kSize, &x, sizeof(T));
    }
  }

  // Makes the compiler forget what it has derived from a pack that is used again later. Else it keeps the
  // widened elements, in twice the registers.
  __device__ void keep_packed() {
#pragma unroll
    for (unsigned& word : words) asm("" : "+r"(word));
  }
};

// True if all these tensors begin on 16 bytes (a null pointer does), or all their rows.
template <class... T>
bool wide(const T*... p) {
  return (... && (reinterpret_cast<std::uintptr_t>(p) % 16 == 0));
}
template <class... T>
bool wide_rows(std::int64_t width, const T*... p) {
  return wide(p...) && (... && (width * static_cast<std::int64_t>(sizeof(T)) % 16 == 0));
}

// p[0], p[1], ..., of which `count` exist (none if it is negative); the others are `fill`. `wide`: p is on 16
// bytes.
template <class T, int kSize = kPackSize<T>>
__device__ inline Pack<T, kSize> load_pack(const T* p, std::int64_t count, bool wide, T fill = T{}) {
  Pack<T, kSize> pack;
  if (wide && count >= kSize) {
#pragma unroll
    for (int i = 0; i < pack.kWords; i += 4) {
      const uint4 four = reinterpret_cast<const uint4*>(p)[i / 4];
      pack.words[i] = four.x;
      pack.words[i + 1] = four.y;
      pack.words[i + 2] = four.z;
      pack.words[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kSize; ++i) pack.set_element(i, i < count ? p[i] : fill);
  }
  return pack;
}

template <class T, int kSize>
__device__ inline void store_pack(T* p, const Pack<T, kSize>& pack, std::int64_t count, bool wide) {
  if (wide && count >= kSize) {
#pragma unroll
    for (int i = 0; i < pack.kWords; i += 4)
      reinterpret_cast<uint4*>(p)[i / 4] =
          make_uint4(pack.words[i], pack.words[i + 1], pack.words[i + 2], pack.words[i + 3]);
  } else {
#pragma unroll
    for (int i = 0; i < kSize; ++i)
      if (i < count) p[i] = pack.element(i);
  }
}

}  // namespace filigree::cuda
