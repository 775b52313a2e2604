// A run in a few figures: summary.json in its folder, made from metrics.jsonl and the layouts.
//
//   {"steps": 340, "tokens": 696320, "train_loss": 1.83,
//    "steps_before": 120,        of another run, from whose checkpoint this one went on; else absent
//    "val_loss": 1.85, ...,      everything that the last evaluation found, keys val_*
//    "best_val_loss": 1.85,
//    "data": {"train": "1c0f..", "validation": "9a2e.." or null, "tokenizer": "byte"},    fingerprints
//    "layers": [{"layers": [0, 1], "tile": 32, "heads": 6, "computed_tiles": .., "dense_tiles": ..,
//                "exact_pairs": .., "dense_pairs": ..}],      tiles and pairs of one layer, over its heads
//    "timing": {"step_seconds": .., "tokens_per_second": .., "train_seconds": .., "evaluation_seconds": ..,
//               "peak_bytes": ..}}
//
// train_loss is the mean over the last tenth of the steps that have a loss, step_seconds and
// tokens_per_second are medians over all steps; seconds are sums over all processes that worked on the run.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "attention/tile_layout.h"

namespace filigree {

// Error(data) naming the line of `metrics` that is no JSON object.
nlohmann::ordered_json summarize(const std::filesystem::path& metrics, const std::vector<LayoutPtr>& layouts);

// True if a line of metrics.jsonl tells a validation loss. Older versions wrote one of 0 where nothing was to
// be predicted.
bool has_validation_loss(const nlohmann::ordered_json& line);

// Layers with the same layout together, as in "layers" above.
nlohmann::ordered_json layer_costs(const std::vector<LayoutPtr>& layouts);

// `data`: as above.
void write_summary(const std::filesystem::path& run_folder, const std::vector<LayoutPtr>& layouts,
                   nlohmann::ordered_json data);

}  // namespace filigree
