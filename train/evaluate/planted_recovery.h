// How well a layout found what the planted task has hidden.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "attention/tile_layout.h"
#include "data/dataset.h"
#include "layers/transformer.h"

namespace filigree {

// Off the diagonal, which every layout has. `chosen` counts tiles of all heads of the layers with learned
// heads, a tile of two heads twice; `planted` the tiles that some rule needs.
struct PlantedRecovery {
  std::int64_t chosen = 0, chosen_planted = 0;
  std::int64_t planted = 0, planted_found = 0;  // found by some head
};

// nullopt if the data is not the planted task or no layer has a static learned layout.
std::optional<PlantedRecovery> planted_recovery(const Transformer& model, const Dataset& data,
                                                std::int64_t seq_len);

}  // namespace filigree
