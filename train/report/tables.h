// An analysis as CSV (one line a run), JSON (runs, and what is found per variant) and Markdown (a table for
// each setting, one of accuracy by length where that was measured, and the findings).
#pragma once

#include <string>

#include "train/report/analysis.h"

namespace filigree {

std::string results_csv(const Collection& collection);
std::string results_json(const Collection& collection, const Analysis& analysis);
std::string results_markdown(const Collection& collection, const Analysis& analysis);

// "512 MiB", "1.25 GiB"
std::string memory_text(double bytes);
// Whether the best is better by more than chance: "yes (p = 0.02)", or a dash where nothing was tested.
std::string test_text(const Variant& variant);

}  // namespace filigree
