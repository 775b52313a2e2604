// From a config's pattern to the tile layouts of its layers.
#pragma once

#include <string>
#include <vector>

#include "attention/pattern.h"
#include "train/config.h"

namespace filigree {

// One per layer, for sequences of `seq_len` tokens; layers with the same pattern share one layout.
std::vector<LayoutPtr> build_layouts(const Config& config, std::int64_t seq_len);

// "layers 0-3: {local: {window: 64}}: 12.4 % of tiles, ..." for the start of a run; one line per distinct
// layout.
std::string describe_layouts(const Config& config, const std::vector<LayoutPtr>& layouts);

}  // namespace filigree
