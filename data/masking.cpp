#include "data/masking.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/ops.h"

namespace filigree {

void mask_tokens(std::span<std::int32_t> inputs, std::span<std::int32_t> targets,
                 const Vocabulary& vocabulary, double probability, const RandomKey& key,
                 std::uint64_t first) {
  check(vocabulary.mask.has_value() && inputs.size() == targets.size(), "masking needs a mask token");
  std::vector<std::int32_t> special;
  for (const auto& id : {vocabulary.separator, vocabulary.mask})
    if (id) special.push_back(static_cast<std::int32_t>(*id));
  std::sort(special.begin(), special.end());
  special.erase(std::unique(special.begin(), special.end()), special.end());
  const auto n_ordinary = static_cast<std::uint64_t>(vocabulary.size - std::ssize(special));
  const auto threshold = static_cast<std::uint64_t>(std::llround(probability * 0x1p32));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const PhiloxCounter draw = key.block(first + i);
    const bool ordinary = std::find(special.begin(), special.end(), inputs[i]) == special.end();
    const bool chosen = ordinary && draw[0] < threshold;
    targets[i] = chosen ? inputs[i] : ops::kIgnoreIndex;
    if (!chosen) continue;
    const float kind = uniform01(draw[1]);
    if (kind < 0.8f) {
      inputs[i] = static_cast<std::int32_t>(*vocabulary.mask);
    } else if (kind < 0.9f) {
      // The ordinary ids are all ids without the special ones: step over those in ascending order.
      auto id = static_cast<std::int32_t>(draw[2] * n_ordinary >> 32);
      for (const std::int32_t skipped : special)
        if (id >= skipped) ++id;
      inputs[i] = id;
    }
  }
}

}  // namespace filigree
