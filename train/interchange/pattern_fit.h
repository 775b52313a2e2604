// Which attention of transformers a pattern is.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "train/config.h"
#include "train/interchange/hf_model.h"

namespace filigree {

struct PatternFit {
  Architecture architecture;
  std::optional<std::int64_t> sliding_window;
  bool exact;  // false: the architecture is the dense one of this shape, and the layout has to be applied
};

// Error(usage) where not even the shape fits an architecture.
PatternFit fit_pattern(const Config& config);

// The pattern's text on one line or more, as YAML that parse_yaml reads.
std::string pattern_text(const YamlNode& pattern);

}  // namespace filigree
