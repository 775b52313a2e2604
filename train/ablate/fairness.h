// `equal: tiles`: the free parameter of each pattern is set so that a layer computes as many tiles as the
// target says.
//
// The free parameter is what the pattern gives as the word `fit`, anywhere in it ({bigbird: {random: fit}});
// where there is none, the one that the pattern's kind names for this (PatternKind::fitted), if the pattern
// does not give it. Learned patterns count as they are when hardened. Every other pattern has to meet the
// target as it is.
#pragma once

#include <functional>
#include <optional>

#include "train/ablate/sweep.h"

namespace filigree {

// Of a layer, over its heads; the mean over layers.
struct LayerWork {
  double tiles = 0, pairs = 0;  // computed tiles, pairs that the pattern needs
};
LayerWork work_per_layer(const Config& config);
inline double tiles_per_layer(const Config& config) {
  return work_per_layer(config).tiles;
}

// The whole number in [0, max] whose tiles are nearest to the target: tiles(value) is nullopt where the value
// is refused. It need not be monotone. `near` receives the best ones on either side for messages.
struct FitSearch {
  std::optional<std::int64_t> best, below, above;
};
FitSearch fit_parameter(const std::function<std::optional<double>(std::int64_t)>& tiles, std::int64_t max,
                        std::int64_t tile, double target, double tolerance);

// The first and the last value around `value` up to which the tiles stay the same.
std::pair<std::int64_t, std::int64_t> plateau(const std::function<std::optional<double>(std::int64_t)>& tiles,
                                              std::int64_t value, std::int64_t max);

// Fits the config's pattern, which may still be unread. Of neighbouring values with the same tiles, which
// differ in how much of them they need, the end that needs more is taken: a window of 513 tokens, not of 450,
// in eight tiles of 64. Error(usage) with the numbers if that is not possible within the tolerance. `cell`
// names it in messages.
Fitted fit_pattern(Config& config, double target, const Equal& equal, const std::string& cell);

}  // namespace filigree
