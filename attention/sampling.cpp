#include "attention/sampling.h"

#include <algorithm>
#include <numeric>

#include "core/random.h"

namespace filigree {
namespace {

// floor(word * range / 2^64) for range < 2^32, without a 128-bit type.
std::int64_t scale_to(std::uint64_t word, std::uint64_t range) {
  return static_cast<std::int64_t>(((word >> 32) * range + ((word & 0xffffffffu) * range >> 32)) >> 32);
}

}  // namespace

void sample(const DrawKey& key, std::int64_t population, std::int64_t count, std::vector<std::int64_t>& out) {
  out.clear();
  if (count >= population) {
    out.resize(std::max<std::int64_t>(population, 0));
    std::iota(out.begin(), out.end(), 0);
    return;
  }
  PhiloxCounter block{};
  for (std::int64_t d = 0; d < count; ++d) {
    if (d % 2 == 0)
      block = philox4x32({static_cast<std::uint32_t>(d / 2), key.row, key.head, 0}, philox_key(key.seed));
    const std::uint64_t word = block[d % 2 * 2] | std::uint64_t{block[d % 2 * 2 + 1]} << 32;
    const std::int64_t top = population - count + d;
    const std::int64_t drawn = scale_to(word, static_cast<std::uint64_t>(top) + 1);
    const auto place = std::lower_bound(out.begin(), out.end(), drawn);
    if (place != out.end() && *place == drawn) {
      out.push_back(top);  // larger than everything drawn before
    } else {
      out.insert(place, drawn);
    }
  }
}

}  // namespace filigree
