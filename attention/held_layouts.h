// Layouts that lie inside checkpoints, not in files of their own. A pattern names one by the sum of its
// bytes, `block: {layout: SUM}`, so that a checkpoint stays whole wherever it is moved. What was read once is
// known to the end of the process: a sum always means the same layout.
#pragma once

#include <string>
#include <string_view>

#include "attention/tile_layout.h"

namespace filigree {

// From the bytes of a layout file; see load_layout. Every error begins with `name`.
TileLayout parse_layout(std::string_view file, const std::string& name);

// Makes the bytes of a layout file known and returns their sum, the hex xxhash64. `name` names them in
// messages. Error(data) if they are no layout.
std::string hold_layout(std::string_view file, const std::string& name);

// nullptr if nothing that was read holds it.
LayoutPtr held_layout(const std::string& sum);

}  // namespace filigree
