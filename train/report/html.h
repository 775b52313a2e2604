// The page: one HTML file without scripts, network or other files. Light and dark by the reader's preference,
// for wide screens, phones and paper.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "train/report/analysis.h"

namespace filigree {

std::string report_html(const Collection& collection, const Analysis& analysis);

// A table that scrolls within its column. `rows` is HTML, all else text; `css` begins with a space.
std::string html_table(const std::string& name, const std::string& caption,
                       const std::vector<std::string>& columns, const std::string& rows,
                       const char* css = "");

// For text and attribute values: & < > " ' as entities, control characters as U+FFFD.
std::string escape_html(std::string_view text);

}  // namespace filigree
