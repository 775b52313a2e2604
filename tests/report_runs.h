// Runs as the report sees them, made up.
#pragma once

#include <gtest/gtest.h>

#include "train/report/figures.h"
#include "train/report/findings.h"

namespace filigree {

// A run as if it had been read from its folder.
inline RunData made_run(const std::string& label, std::int64_t seed, double loss, double tiles,
                        const std::string& pattern = "full", const std::string& setting = "") {
  RunData run;
  run.folder = "runs/" + label;
  run.label = label;
  run.setting = setting;
  run.config = parse_config(parse_yaml(fmt::format("pattern: {}\ntile: 16\nseed: {}\n"
                                                   "model: {{dim: 32, n_layers: 2, n_heads: 2}}\n"
                                                   "data: {{train: [text], seq_len: 64}}\n"
                                                   "train: {{steps: 10, batch_size: 4, lr: 1e-2}}\n",
                                                   pattern, seed),
                                       "config"));
  run.config_yaml = to_yaml(run.config.to_yaml());
  run.summary = {{"steps", 10},
                 {"train_loss", loss + 1},
                 {"val_loss", loss},
                 {"val_loss_by_position",
                  {{{"first", 0}, {"last", 0}, {"loss", loss + 1}},
                   {{"first", 1}, {"last", 31}, {"loss", loss + 0.1}},
                   {{"first", 32}, {"last", 63}, {"loss", loss - 0.1}}}},
                 {"layers",
                  {{{"layers", {0, 1}},
                    {"tile", 16},
                    {"heads", 2},
                    {"computed_tiles", tiles},
                    {"dense_tiles", 20},
                    {"exact_pairs", 1000},
                    {"dense_pairs", 4160}}}},
                 {"timing",
                  {{"step_seconds", 0.5},
                   {"tokens_per_second", 1000 * tiles},
                   {"train_seconds", 5},
                   {"peak_bytes", 64 << 20}}}};
  for (int step = 1; step <= 10; ++step) run.train_loss.emplace_back(step, loss + 10.0 / step);
  run.validation = {{2, loss + 2}, {5, loss + 1}, {10, loss}};
  return run;
}

// The figures that a page draws.
inline nlohmann::json figures_in(const std::string& page) {
  const std::string begin = "<script type=\"application/json\" id=\"figures\">", end = "</script>";
  const std::size_t from = page.find(begin);
  EXPECT_NE(from, std::string::npos);
  if (from == std::string::npos) return {};
  const std::size_t at = from + begin.size();
  return nlohmann::json::parse(page.substr(at, page.find(end, at) - at));
}

// True if `json` holds this value somewhere.
inline bool holds(const nlohmann::json& json, const nlohmann::json& value) {
  return json == value || (json.is_structured() &&
                           std::ranges::any_of(json, [&](const auto& inner) { return holds(inner, value); }));
}

}  // namespace filigree
