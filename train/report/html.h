// The page: one HTML file without scripts, network or other files. Light and dark by the reader's preference,
// for wide screens, phones and paper.
#pragma once

#include <string>
#include <string_view>

#include "train/report/analysis.h"

namespace filigree {

std::string report_html(const Collection& collection, const Analysis& analysis);

// For text and attribute values: & < > " ' as entities, control characters as U+FFFD.
std::string escape_html(std::string_view text);

}  // namespace filigree
