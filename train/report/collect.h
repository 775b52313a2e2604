// Runs as the report sees them, read from their folders. A folder that cannot be read, or whose run is not
// finished, is kept with what is wrong with it: a report never fails for one of its runs.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "train/config/config.h"

namespace filigree {

using Curve = std::vector<std::pair<double, double>>;  // (step, value)

struct RunData {
  std::filesystem::path folder;
  std::string label;  // what is compared, e.g. a pattern's name; runs with the same one differ in their seed
  std::string setting;  // the rest of what the sweep varies; compared runs share it. Empty: nothing
  std::string problem;  // why it does not count; empty: it does
  Config config;        // if there is no problem, and so is all that follows
  std::string config_yaml;
  nlohmann::ordered_json summary;  // train/record/summary.h
  Curve train_loss, validation;    // the latter of `val_loss`
  // For a cell that ran beside others, so that its own speed is not its pattern's: the time of a step when it
  // was timed alone.
  bool beside_others = false;
  std::optional<double> alone_step_seconds;
  // For learned patterns, over all layers: tiles computed, expected and aimed at ("computed", "expected",
  // "aim"); shares of gates from 0.9 on, below 0.1 and between ("open", "closed", "between"); the validation
  // loss if the pattern were hardened at that step ("hardened") and at these steps as it was ("as learned").
  // Only what the run has.
  std::map<std::string, Curve> learning;
  // How it was made, of all commands that worked on it, "unknown" where an older version did not say: start,
  // end, host, device, threads, version, commit, build.
  std::map<std::string, std::string> made;
};

struct Collection {
  std::string title;
  std::string fairness;  // what was held equal, in words; may be empty
  std::vector<RunData> runs;
  std::string noun = "pattern";         // what a variant is called
  std::vector<std::string> swept = {};  // the axes, if all runs are of one sweep
  bool equal_time = false;              // likewise: what it held equal
};

// A run folder's summary.json, or the same made from its metrics and config. Error(data).
RunData read_run(const std::filesystem::path& folder);

// Every key of a config that has a part in what a run comes to, beside its seed, with its value on one line.
std::vector<std::pair<std::string, std::string>> settings_that_count(const Config& config);
// Such a value for a person: 0.00030000000000000003 as 0.0003.
std::string setting_text(const std::string& value);

// Run folders and sweep folders (with a sweep.json, which names their runs). Other runs are named by their
// pattern and, where that is not enough, by the keys in which they differ. Error(data) for what is neither.
Collection collect(const std::vector<std::filesystem::path>& folders);

}  // namespace filigree
