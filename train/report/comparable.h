// The rule by which runs can be held against each other: they can if they were judged on the same validation
// data and do the same task with the same model, training data, tokenizer and number of steps; a sweep's own
// axes may differ, and the steps where it held the time equal. All else in which they differ is told.
//
// Data is known by its fingerprint (summary.json); where a run of an older version has none, all of them are
// compared by the paths in their configs.
#pragma once

#include <string>
#include <vector>

#include "train/report/collect.h"

namespace filigree {

// A key, and which of the compared variants have which value of it.
struct KeyDifference {
  struct Value {
    std::string text;
    std::vector<std::string> labels;
  };
  std::string key;  // of a config; or "validation data", "training data", "tokenizer", "evaluated tokens"
  std::vector<Value> values;
  std::string text() const;  // "train.steps: 100 (full, local), 200 (near)"
};

struct Circumstances {
  std::vector<KeyDifference> unlike;  // in any of these: the runs cannot be compared
  std::vector<KeyDifference> beside;  // these only have to be known
};

// `metric`: the key of what they are compared by.
Circumstances circumstances_of(const Collection& collection, const std::vector<const RunData*>& runs,
                               const std::string& metric);

// True if validation text is split off by the run's seed, so that only runs of one seed share it.
bool splits_by_seed(const Config& config);

}  // namespace filigree
