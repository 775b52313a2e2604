// How far information travels: which inputs a position can depend on after some layers of sparse attention,
// over the union of heads and with the residual connection (a position always keeps itself).
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "attention/tile_layout.h"

namespace filigree {

struct FieldAfter {
  std::int64_t tokens = 0;       // inputs that the last query depends on
  std::int64_t farthest = 0;     // how many tokens back the farthest of them lies
  std::int64_t unconnected = 0;  // token pairs (j <= i where causal) that no path connects
};

struct ReceptiveField {
  // Tokens per node of the graph. 1: exact. More: tiles stand for their tokens, so that `tokens` and
  // `farthest` are upper bounds and `unconnected` is a lower bound.
  std::int64_t cell = 1;
  std::vector<FieldAfter> after;  // [l]: through the first l + 1 layers
  // A pair (query, key) that is still unconnected after the last layer.
  std::optional<std::pair<std::int64_t, std::int64_t>> example;
};

// Exact up to this length.
inline constexpr std::int64_t kMaxExactField = 4096;

// One layout per layer, from the input up; all of one geometry.
ReceptiveField find_receptive_field(const std::vector<LayoutPtr>& layers);

}  // namespace filigree
