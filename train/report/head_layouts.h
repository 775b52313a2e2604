// The layouts that the heads of a finished run attend with, for pictures.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "attention/tile_layout.h"
#include "train/config/config.h"

namespace filigree {

struct HeadLayouts {
  std::vector<LayoutPtr> layers;
  std::string note;  // where they come from, if not from the config alone: a sentence
};

// Fixed heads have the pattern's; learned ones what the run's checkpoint has learned; of a router, whose
// tiles depend on the input, what it chooses for the first sequence of the run's validation data.
// Error(data, usage) if the checkpoint or that data cannot be read any more.
HeadLayouts head_layouts(const std::filesystem::path& run, const Config& config);

}  // namespace filigree
