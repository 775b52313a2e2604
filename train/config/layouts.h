// From a config's pattern to the tile layouts of its layers.
#pragma once

#include <string>
#include <vector>

#include "attention/connectivity.h"
#include "train/config/config.h"

namespace filigree {

LayerPatternsPtr layer_patterns(const Config& config);
// Their layouts for sequences of `seq_len` tokens.
std::vector<LayoutPtr> build_layouts(const Config& config, std::int64_t seq_len);

// xxhash of the layout files (`block: {file: ..}`) that the pattern reads, in its order; empty if there are
// none. Part of a run's identity: another file under the same name is another pattern. Error(data) if one
// cannot be read.
std::string layout_files_sum(const Config& config);

// Whether the pattern can be built for this length: one with listed positions or a layout file fits its own
// only.
bool pattern_fits(const Config& config, std::int64_t seq_len);

// "layers 0-3: {local: {window: 64}}: 12.4 % of tiles, ..." for the start of a run; one line per distinct
// layout.
std::string describe_layouts(const Config& config, const std::vector<LayoutPtr>& layouts);

}  // namespace filigree
