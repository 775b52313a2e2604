// A pseudo-random permutation of [0, n) that needs no table: a six-round Feistel network whose round function
// is Philox, over the smallest square of a power of two that holds n, walked until it lands below n (Black
// and Rogaway, "Ciphers with arbitrary finite domains", 2002).
#pragma once

#include <bit>
#include <cstdint>

#include "core/check.h"
#include "core/random.h"

namespace filigree {

class Permutation {
 public:
  Permutation(std::int64_t n, const RandomKey& key) : n_(static_cast<std::uint64_t>(n)), key_(key) {
    check(n >= 1, "a permutation of nothing");
    const int bits = std::bit_width(n_ - 1);
    half_bits_ = bits < 2 ? 1 : (bits + 1) / 2;
  }

  std::int64_t operator()(std::int64_t i) const {
    auto x = static_cast<std::uint64_t>(i);
    check(x < n_, "permutation index out of range");
    do x = shuffle(x);
    while (x >= n_);
    return static_cast<std::int64_t>(x);
  }

 private:
  static constexpr std::uint64_t kRounds = 6;

  std::uint64_t shuffle(std::uint64_t x) const {
    const std::uint64_t low_mask = (std::uint64_t{1} << half_bits_) - 1;
    std::uint64_t left = x >> half_bits_, right = x & low_mask;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const std::uint64_t mixed = left ^ (key_.block(round << 32 | right)[0] & low_mask);
      left = right;
      right = mixed;
    }
    return left << half_bits_ | right;
  }

  std::uint64_t n_;
  RandomKey key_;
  int half_bits_ = 1;
};

}  // namespace filigree
