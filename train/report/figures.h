// All that the report's page shows, as JSON: sentences, tables as they are printed, charts as numbers
// (charts.h) and what each head attends to. page.html draws it; report.json is the same for machines.
#pragma once

#include <filesystem>
#include <string>

#include "attention/tile_layout.h"
#include "train/report/analysis.h"

namespace filigree {

nlohmann::ordered_json report_figures(const Collection& collection, const Analysis& analysis);

// The page: page.html with the figures in it, and all that is needed to draw them.
std::string report_page(const nlohmann::ordered_json& figures);

// The picture of what a head sees: a string for each row of at most 96 pixels, queries downward and keys to
// the right: a letter for the share of allowed pairs, from a (none) to g (all), and behind it how many pixels
// it holds for, if more than one. A full stop is what causality forbids.
std::vector<std::string> pattern_picture(const TileLayout& layout, int head);

}  // namespace filigree
