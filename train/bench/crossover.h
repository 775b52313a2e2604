// From which length on a sparse pattern is faster than full attention: in attention alone, forward and
// backward, and in a whole training step. Both are measured in turn within one process, so that what else the
// machine does slows both: the noise is what the ratio of a turn's two times varies by.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "train/config/config.h"

namespace filigree {

struct CrossoverRequest {
  // Model, tile, device and precision; its pattern, seq_len and batch are replaced.
  Config config;
  std::vector<std::pair<std::string, PatternSpec>> patterns;  // (name, pattern)
  std::vector<std::int64_t> lengths;                          // ascending
  std::int64_t tokens = 0;  // of a batch: sequences = tokens / N, at least 1. 0: the largest length
  int repeats = 5;          // turns
};

struct Timing {
  double full_ms = 0, sparse_ms = 0;  // medians
  double speedup = 0;                 // full_ms / sparse_ms
  double low = 0, high = 0;           // quartiles of the turns' ratios, the speedup within
};

struct CrossoverPoint {
  std::int64_t length = 0, batch = 0;
  double tiles_of_full = 0;               // computed tiles as a share of those of full attention
  std::optional<Timing> attention, step;  // of all layers, of a step; empty: out of memory
};

struct Crossover {
  std::string name;
  std::vector<CrossoverPoint> points;
};

struct SpeedAt {
  std::int64_t length;
  double speedup, low, high;
};

// The length from which on a pattern is faster at every length measured, beyond the noise: three of four
// turns. Where the last length before is slower beyond the noise, the break is found between the two by
// interpolating log(speedup) over log(N); where the two cannot be told apart there, it lies somewhere after
// it.
struct Break {
  enum class Kind { always, never, at, after };
  Kind kind = Kind::never;
  double length = 0;        // at: the break; after: the first length that is faster
  std::int64_t before = 0;  // after: the last length that is not
};
Break find_break(const std::vector<SpeedAt>& speeds);
// Of CrossoverPoint::attention or step. Where a pattern computes all of full attention's tiles nothing is
// gained. "from N = 700 on"
std::string break_text(const Crossover& result, std::optional<Timing> CrossoverPoint::*part);

// `done` hears of every point as it is measured. Error(usage) where a pattern does not fit a length.
std::vector<Crossover> measure_crossover(
    const CrossoverRequest& request,
    const std::function<void(const Crossover&, const CrossoverPoint&)>& done = {});

std::string crossover_json(const CrossoverRequest& request, const std::vector<Crossover>& results);
std::string crossover_svg(const std::vector<Crossover>& results);

}  // namespace filigree
