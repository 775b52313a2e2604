// Inverted dropout whose mask is a function of the key alone, so that backward draws it again.
#include <cmath>

#include "core/cpu/partition.h"
#include "core/kernels.h"

namespace filigree::cpu {
namespace {

constexpr int kBlocks = 16;          // Philox blocks drawn side by side
constexpr int kDraws = 4 * kBlocks;  // elements they decide

// Draws 4 * first_block .. 4 * first_block + kDraws - 1 of the stream: RandomKey::block for kBlocks blocks in
// lockstep, which GCC turns into vector code.
void draw(const RandomKey& key, std::uint64_t first_block, std::uint32_t* draws) {
  std::uint32_t c0[kBlocks], c1[kBlocks], c2[kBlocks], c3[kBlocks];
  for (int b = 0; b < kBlocks; ++b) {
    const std::uint64_t index = first_block + static_cast<std::uint64_t>(b);
    c0[b] = static_cast<std::uint32_t>(index);
    c1[b] = static_cast<std::uint32_t>(index >> 32);
    c2[b] = key.site;
    c3[b] = key.step;
  }
  PhiloxKey k = philox_key(key.seed);
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int b = 0; b < kBlocks; ++b) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0[b];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2[b];
      c0[b] = static_cast<std::uint32_t>(p1 >> 32) ^ c1[b] ^ k[0];
      c1[b] = static_cast<std::uint32_t>(p1);
      c2[b] = static_cast<std::uint32_t>(p0 >> 32) ^ c3[b] ^ k[1];
      c3[b] = static_cast<std::uint32_t>(p0);
    }
    k = {k[0] + 0x9E3779B9u, k[1] + 0xBB67AE85u};
  }
  for (int b = 0; b < kBlocks; ++b) {
    draws[4 * b] = c0[b];
    draws[4 * b + 1] = c1[b];
    draws[4 * b + 2] = c2[b];
    draws[4 * b + 3] = c3[b];
  }
}

}  // namespace

void dropout(Context, const Tensor& x, double p, RandomKey key, Tensor& y) {
  static_assert(kTaskElements % kDraws == 0, "a task starts at the first draw of a group");
  const auto threshold = static_cast<std::uint32_t>(std::min(std::llround(p * 0x1p32), 0xffffffffLL));
  with_float(x.dtype(), [&]<class T>(T) {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    const T factor = static_cast<T>(1 / (1 - p));
    parallel_elements(x.numel(), [=](std::int64_t begin, std::int64_t end) {
      std::uint32_t draws[kDraws];
      for (std::int64_t i = begin; i < end; i += kDraws) {
        draw(key, static_cast<std::uint64_t>(i) / 4, draws);
        const std::int64_t count = std::min<std::int64_t>(kDraws, end - i);
#pragma omp simd
        for (std::int64_t j = 0; j < count; ++j) py[i + j] = draws[j] < threshold ? T(0) : px[i + j] * factor;
      }
    });
  });
}

}  // namespace filigree::cpu
