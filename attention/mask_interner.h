// A table of distinct masks under construction: equal masks get the same id.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>

#include "attention/tile_layout.h"

namespace filigree {

class MaskInterner {
 public:
  explicit MaskInterner(int tile) : table_(tile) {}

  std::int32_t id_of(std::span<const std::uint64_t> mask) {
    std::uint64_t hash = 0;
    for (const std::uint64_t word : mask) {  // multiply and fold, as wyhash does
      hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 32;
    }
    const auto [begin, end] = ids_.equal_range(hash);
    for (auto it = begin; it != end; ++it)
      if (std::equal(mask.begin(), mask.end(), table_.mask(it->second).begin())) return it->second;
    const std::int32_t id = table_.size();
    table_.append(mask);
    ids_.emplace(hash, id);
    return id;
  }

  MaskTable take() { return std::move(table_); }

 private:
  MaskTable table_;
  std::unordered_multimap<std::uint64_t, std::int32_t> ids_;
};

}  // namespace filigree
