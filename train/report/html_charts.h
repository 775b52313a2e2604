// The charts of a setting, each as a figure with its caption.
#pragma once

#include <string>

#include "train/report/analysis.h"

namespace filigree {

std::string setting_figures(const Setting& setting, const Metric& metric);

// Tiles, gates and the hardened loss over the steps of each variant that learns its pattern; empty if none
// does.
std::string learning_section(const Analysis& analysis);

// "local", or "local (seq_len-512)" where there are several settings.
std::string full_name(const Setting& setting, const Variant& variant);

// The pictures of what a variant's heads see (head_layouts.h), from its first run.
std::string variant_pictures(const Variant& variant);

}  // namespace filigree
