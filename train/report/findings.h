// An analysis in plain sentences.
#pragma once

#include <string>
#include <vector>

#include "train/report/analysis.h"

namespace filigree {

// The findings of a setting in plain sentences, the headline first.
std::vector<std::string> findings(const Setting& setting, const Analysis& analysis);
// "p = 0.012", "p < 0.001"
std::string p_text(double p);
// In what its runs differ beside what is compared; empty if in nothing.
std::string differences_beside(const Setting& setting, const Analysis& analysis);
// The headlines and what was left out, for the terminal: no line break at the end.
std::string printed_findings(const Analysis& analysis);

}  // namespace filigree
