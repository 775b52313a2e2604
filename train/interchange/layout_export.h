// A pattern in transformers: which attention it is there, or else the layouts, and how to apply them.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "attention/tile_layout.h"
#include "train/config/config.h"
#include "train/interchange/hf_model.h"

namespace filigree {

struct AttentionThere {
  Architecture architecture;
  std::optional<std::int64_t> sliding_window;
  bool exact;  // false: the architecture is the dense one of this shape, and the layout has to be applied
};
// Error(usage) where not even the shape fits an architecture.
AttentionThere attention_there(const Config& config);

// The pattern's YAML without the last line break.
std::string pattern_text(const PatternSpec& pattern);

struct LayoutExport {
  std::vector<std::string> files;  // of each layer
  std::string note;
};

// Writes the layouts for data.seq_len tokens and a README.md into `folder`.
LayoutExport write_layouts(const std::filesystem::path& folder, const Config& config,
                           const std::vector<LayoutPtr>& layouts, Architecture architecture);

// The value of config.json's key `filigree`: pattern (YAML text), tile, seq_len, layouts (a file per layer),
// note.
nlohmann::ordered_json layout_entry(const Config& config, const LayoutExport& written);

}  // namespace filigree
