#pragma once

#include <cstdint>

namespace filigree::ops {

// A target that does not count in a loss.
inline constexpr std::int32_t kIgnoreIndex = -100;

}  // namespace filigree::ops
