// Which attention of transformers a pattern is.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "train/config/config.h"
#include "train/interchange/hf_model.h"

namespace filigree {

struct PatternFit {
  Architecture architecture;
  std::optional<std::int64_t> sliding_window;
  bool exact;  // false: the architecture is the dense one of this shape, and the layout has to be applied
};

// Error(usage) where not even the shape fits an architecture.
PatternFit fit_pattern(const Config& config);

// Whether the pattern's text says all of it: nothing is learned, and no layout lies in a file or a
// checkpoint. Error(usage) for a pattern that cannot be made.
bool stands_alone(const YamlNode& pattern, int n_layers, int n_heads);

// The pattern's text on one line or more, as YAML that parse_yaml reads.
std::string pattern_text(const YamlNode& pattern);

}  // namespace filigree
