// Seeded draws for random patterns. A draw is a function of (seed, head, row) alone, in integers only, so
// every device, thread count and restart gets the same keys.
#pragma once

#include <cstdint>
#include <vector>

namespace filigree {

struct DrawKey {
  std::uint64_t seed = 0;
  std::uint32_t head = 0;
  std::uint32_t row = 0;  // query, or query block
};

// `count` distinct integers of [0, population), uniformly, ascending; all of them where there are fewer.
// Replaces `out`. Floyd's method (Bentley, "A sample of brilliance", CACM 1987): step d = 0.. of the row
// takes a 64-bit word w of Philox, from counter {d / 2, row, head, 0} under the key `seed`: its words 0, 1
// (low, high) where d is even, else 2, 3; it draws floor(w * (top + 1) / 2^64) from [0, top], top =
// population - count + d, or top itself if that was drawn before. The bias is below population / 2^64.
void sample(const DrawKey& key, std::int64_t population, std::int64_t count, std::vector<std::int64_t>& out);

}  // namespace filigree
