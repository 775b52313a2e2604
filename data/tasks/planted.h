// The planted task: among plain values stand questions, each for the value of one other token whose place a
// rule gives. So it is known which (query tile, key tile) pairs attention needs, and a learned pattern can be
// scored.
#pragma once

#include <utility>
#include <vector>

#include "data/tasks/task.h"

namespace filigree {

// Where the answers of one rule stand, for the query at position i.
struct PlantedRule {
  enum class Kind {
    offset,  // at i - at
    stride,  // at one of phase, phase + at, phase + 2 at, .. below i; the query names it by its key
    sink,    // at position `at`
  };
  Kind kind = Kind::offset;
  std::int64_t at = 0;
  std::int64_t phase = 0;
};

// The rules of a planted task; Error(usage) for another one.
const std::vector<PlantedRule>& planted_rules(const GeneratedTask& task);

// For each rule the (query tile, key tile) pairs that hold a query and a place where its answer may stand,
// sorted, in a sequence of n tokens.
using TilePairs = std::vector<std::pair<int, int>>;
std::vector<TilePairs> planted_tiles(const GeneratedTask& task, std::int64_t n, int tile);

}  // namespace filigree
