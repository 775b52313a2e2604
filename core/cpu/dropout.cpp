// Inverted dropout whose mask is a function of the key alone, so that backward draws it again.
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstring>

#include "core/cpu/partition.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {
namespace {

// Four 64-bit lanes, each with a Philox word in its low half; the high halves are ignored.
using Lanes __attribute__((vector_size(32))) = std::uint64_t;
constexpr std::uint64_t kLow = 0xffffffffu;
constexpr int kVectors = 2;               // of four blocks each, to hide the latency of multiplication
constexpr int kDraws = 4 * 4 * kVectors;  // elements they decide
constexpr int kBuffer = 16 * kDraws;      // draws at hand, so that the loop that uses them is long

// Products of the low halves with m. GCC does not see by itself that one instruction does it.
inline void multiply_low(const Lanes& a, std::uint32_t m, Lanes& product) {
#if defined(__AVX2__)
  product = reinterpret_cast<Lanes>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(static_cast<long long>(m))));
#else
  product = (a & kLow) * std::uint64_t{m};
#endif
}

// Draws 4 * first_block .. 4 * first_block + kDraws - 1 of the stream: RandomKey::block (philox4x32 in
// core/random.h) for several blocks in lockstep.
void draw(const RandomKey& key, std::uint64_t first_block, std::uint32_t* draws) {
  Lanes c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const std::uint64_t b = first_block + 4 * static_cast<std::uint64_t>(v);
    c0[v] = Lanes{b, b + 1, b + 2, b + 3};
    c1[v] = c0[v] >> 32;
    c2[v] = Lanes{} + std::uint64_t{key.site};
    c3[v] = Lanes{} + std::uint64_t{key.step};
  }
  PhiloxKey k = philox_key(key.seed);
  for (int round = 0; round < 10; ++round) {
    for (int v = 0; v < kVectors; ++v) {
      Lanes p0, p1;
      multiply_low(c0[v], 0xD2511F53u, p0);
      multiply_low(c2[v], 0xCD9E8D57u, p1);
      c0[v] = (p1 >> 32) ^ c1[v] ^ std::uint64_t{k[0]};
      c1[v] = p1;
      c2[v] = (p0 >> 32) ^ c3[v] ^ std::uint64_t{k[1]};
      c3[v] = p0;
    }
    k = {k[0] + 0x9E3779B9u, k[1] + 0xBB67AE85u};
  }
  for (int v = 0; v < kVectors; ++v, draws += 16) {
    const Lanes first = (c0[v] & kLow) | (c1[v] << 32), second = (c2[v] & kLow) | (c3[v] << 32);
    const Lanes blocks[2] = {__builtin_shufflevector(first, second, 0, 4, 1, 5),
                             __builtin_shufflevector(first, second, 2, 6, 3, 7)};
    std::memcpy(draws, blocks, sizeof blocks);  // each block as its four words, on a little-endian machine
  }
}

}  // namespace

void dropout(Context, const Tensor& x, double p, RandomKey key, const Tensor& step, Tensor& y) {
  if (step.defined()) key.step += step.data<std::uint32_t>()[0];
  static_assert(kTaskElements % kBuffer == 0, "a task starts at the first draw of a group");
  const auto threshold = static_cast<std::uint32_t>(std::min(std::llround(p * 0x1p32), 0xffffffffLL));
  with_float(x.dtype(), [&]<class T>(T) {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    const T factor = static_cast<T>(1 / (1 - p));
    parallel_elements(x.numel(), [=](std::int64_t begin, std::int64_t end) {
      std::uint32_t draws[kBuffer];
      for (std::int64_t i = begin; i < end; i += kBuffer) {
        const std::int64_t count = std::min<std::int64_t>(kBuffer, end - i);
        for (std::int64_t j = 0; j < count; j += kDraws)
          draw(key, static_cast<std::uint64_t>(i + j) / 4, draws + j);
        const T* from = px + i;
        T* to = py + i;
#pragma omp simd
        for (std::int64_t j = 0; j < count; ++j) {
          const T kept = from[j] * factor;
          to[j] = draws[j] < threshold ? T(0) : kept;
        }
      }
    });
  });
}

}  // namespace filigree::cpu
