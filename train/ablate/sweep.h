// A sweep: one YAML file that stands for many runs.
//
//   base: ../quickstart.yaml       # a config file, or a config written here, which may `extends:` a file
//   axes:                          # any config key: a list of values, or a map that names them
//     pattern: {full: full, near: {local: {window: fit}}}
//     data.seq_len: [512, 1024]
//     train.batch_size: [4, 2]
//     seed: [1, 2, 3]
//   together: [[data.seq_len, train.batch_size]]   # axes that move in step; all others: every combination
//   equal: {tiles: {like: full, tolerance: 0.05, except: []}}     # or `time`, or none; see fairness.h
//   compare: [pattern]             # axes whose values are held against each other, each under every value of
//                                  # the others; default: pattern if it is an axis, else all but seed
//   out: runs/ablations/NAME       # default: runs/ablations/<name of the file>
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "train/config/config.h"

namespace filigree {

struct AxisValue {
  std::string label;  // as in folder names and tables, e.g. "near", "seed-1"
  YamlNode value;
};
struct Axis {
  std::string key;
  Mark mark;
  std::vector<AxisValue> values;
};

enum class Fairness { none, tiles, time };

// The quantity that is held equal. Of `tiles` and `time`, exactly one way to name the target is set.
struct Equal {
  Fairness rule = Fairness::none;
  std::string like;                 // label of an axis value: the cell that differs in this value only
  double budget = 0;                // tiles: computed tiles, as a share of full attention's
  std::int64_t per_layer = 0;       // tiles: computed tiles, over the heads of a layer
  double tolerance = 0.05;          // tiles: relative
  double seconds = 0;               // time: of training steps
  std::int64_t probe_steps = 0;     // time: steps of which the speed is measured
  std::vector<std::string> except;  // labels of values that are left as they are
  Mark mark;
};

// The value that a pattern's free parameter was set to.
struct Fitted {
  std::string parameter;  // empty: it has none and met the target as it is
  std::int64_t value = 0;
  double tiles = 0, target = 0;  // computed tiles per layer
};

struct Cell {
  std::string name;                   // of its folder, within the sweep's
  std::vector<std::string> labels;    // one per axis
  std::vector<std::size_t> position;  // one per group of axes that move together
  Config config;                      // train.out is its folder
  std::optional<Fitted> fitted;
};

struct Sweep {
  std::string name;
  std::filesystem::path out;
  std::vector<Axis> axes;
  std::vector<std::vector<std::size_t>> groups;  // indices of axes that move together
  std::vector<std::string> compare;              // keys of axes
  Equal equal;
  std::vector<Cell> cells;  // the first axis moves slowest

  // The cell that is at value `label` and otherwise where `cell` is; nullptr if no axis has that value.
  const Cell* like(const Cell& cell, const std::string& label) const;
  // The labels of every axis but seed, e.g. "near, seq_len-512": what is averaged over seeds.
  std::string variant(const Cell& cell) const;
};

// Reads the file; `overrides` ("train.steps=50") go onto the base, `out` replaces the file's unless empty.
// Patterns are fitted where `equal: tiles` says so. Error(usage) at file:line:column for every mistake: a key
// that no config has, an axis without values, two cells with one folder, a pattern that cannot be fitted.
Sweep load_sweep(const std::filesystem::path& path, const std::vector<std::string>& overrides = {},
                 const std::filesystem::path& out = {});

}  // namespace filigree
