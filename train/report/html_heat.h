// Accuracy told apart (val_accuracy_of and val_by_length in a summary: a needle's depth, a rule, the length
// of the text), as tables whose cells are shaded.
#pragma once

#include <string>

#include "train/report/analysis.h"

namespace filigree {

// For each variant that was evaluated at several lengths, a table of groups by length. Then one of variants
// by group; where settings differ in data.seq_len, again one of groups by length for each variant. Means over
// seeds. Empty if no run tells anything apart.
std::string accuracy_section(const Analysis& analysis);

}  // namespace filigree
