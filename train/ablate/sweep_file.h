// OUT/sweep.json: the cells of a sweep with what they were given, and what is kept from one start to the
// next.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "train/ablate/sweep.h"

namespace filigree {

// Cells that failed, and why.
using Failures = std::vector<std::pair<const Cell*, std::string>>;

struct SweepFile {
  // Measured speeds, of variants (equal: time) and of finished cells alone: {name: {"seconds" or
  // "step_seconds", "config": of what was measured}}.
  nlohmann::ordered_json probes = nlohmann::ordered_json::object(), alone = nlohmann::ordered_json::object();
  std::set<std::string> beside;  // names of cells that ran beside others

  // Empty where there is none. Error(data) if it is damaged, Error(usage) if the folder is no sweep's but
  // holds files that a sweep would replace: they are the user's own.
  static SweepFile read(const Sweep& sweep);
  void write(const Sweep& sweep, const Failures& failures) const;
};

}  // namespace filigree
