// An analysis as CSV (one line a run), JSON (runs, and what is found per variant) and Markdown (a table for
// each setting, one of accuracy by length where that was measured, and the findings).
#pragma once

#include <string>

#include "train/report/analysis.h"

namespace filigree {

std::string results_csv(const Collection& collection, const Analysis& analysis);
std::string results_json(const Collection& collection, const Analysis& analysis);
std::string results_markdown(const Collection& collection, const Analysis& analysis);

// "512 MiB", "1.25 GiB"
std::string memory_text(double bytes);
// The table of a setting, a row a variant: what it is called, its quality, cost and seeds.
std::vector<std::string> result_columns(const Analysis& analysis);
std::vector<std::string> result_row(const Setting& setting, const Variant& variant, const Metric& metric);
// Why a run does not count, or that it cannot be compared; empty if neither.
std::string problem_of(const RunData& run, const Analysis& analysis);

}  // namespace filigree
