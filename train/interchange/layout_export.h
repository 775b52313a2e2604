// What an export says about a pattern that transformers does not have: the layouts, and how to apply them.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "attention/tile_layout.h"
#include "train/config/config.h"
#include "train/interchange/hf_model.h"

namespace filigree {

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
