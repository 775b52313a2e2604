// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC'11). A draw is a pure function of (key, counter), so every device, thread count and restart sees the
// same stream. Integers only; floats are made from them by exact operations.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace filigree {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

constexpr PhiloxCounter philox4x32(PhiloxCounter c, PhiloxKey k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k = {k[0] + 0x9E3779B9u, k[1] + 0xBB67AE85u};
  }
  return c;
}

constexpr PhiloxKey philox_key(std::uint64_t seed) {
  return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
}

// Uniform in [0, 1) with 24 bits, exact in f32.
constexpr float uniform01(std::uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

// Names one stream of draws: the run's seed, who draws (a site: a layer's dropout, an initialiser) and when
// (a step). Draw i of the stream is element i % 4 of the block at counter {i / 4 low, i / 4 high, site,
// step}.
struct RandomKey {
  std::uint64_t seed = 0;
  std::uint32_t site = 0;
  std::uint32_t step = 0;

  constexpr PhiloxCounter block(std::uint64_t index) const {
    return philox4x32(
        {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), site, step},
        philox_key(seed));
  }
};

// Sequential reading of one stream, for host code (initialisation, shuffles, tests).
class RandomStream {
 public:
  explicit RandomStream(RandomKey key) : key_(key) {}
  explicit RandomStream(std::uint64_t seed) : key_{seed, 0, 0} {}

  std::uint32_t next() {
    if (position_ % 4 == 0) block_ = key_.block(position_ / 4);
    return block_[position_++ % 4];
  }
  // Uniform in [0, n), without bias (Lemire's rejection); n >= 1.
  std::uint32_t below(std::uint32_t n) {
    std::uint64_t m = std::uint64_t{next()} * n;
    if (static_cast<std::uint32_t>(m) < n) {
      const std::uint32_t threshold = (0u - n) % n;
      while (static_cast<std::uint32_t>(m) < threshold) m = std::uint64_t{next()} * n;
    }
    return static_cast<std::uint32_t>(m >> 32);
  }
  std::int64_t range(std::int64_t low, std::int64_t high) {  // uniform in [low, high]
    return low + below(static_cast<std::uint32_t>(high - low + 1));
  }
  double uniform() { return (static_cast<double>(next()) + 0.5) * 0x1p-32; }  // in (0, 1)
  double normal() {                                                           // Box-Muller
    const double radius = std::sqrt(-2.0 * std::log(uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }

 private:
  RandomKey key_;
  std::uint64_t position_ = 0;
  PhiloxCounter block_{};
};

}  // namespace filigree
