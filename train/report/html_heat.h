// Accuracy told apart (val_accuracy_of in a summary: a needle's depth, a rule), as tables whose cells are
// shaded.
#pragma once

#include <string>

#include "train/report/analysis.h"

namespace filigree {

// One table of variants by group; where settings differ in data.seq_len, one of groups by length for each
// variant. Empty if no run tells anything apart.
std::string accuracy_section(const Analysis& analysis);

}  // namespace filigree
