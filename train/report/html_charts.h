// The charts of a setting, each as a figure with its caption.
#pragma once

#include <string>

#include "train/report/analysis.h"

namespace filigree {

std::string setting_figures(const Setting& setting, const Metric& metric);

// The pictures of what a variant's heads see (head_layouts.h), from its first run.
std::string variant_pictures(const Variant& variant);

}  // namespace filigree
