// The charts of the report as numbers, for page.html to draw. A chart is
//   {"kind", "title", "note", "words", "x", "y", "series"}
// `words` says what it shows to a reader who does not see it, x and y name its axes. Every series has a label
// and a style, which stands for a colour; beside these, by kind:
//   lines, points   points, low, high: lists of [x, y], the latter two a band around the first; of points
//                   also front, for the Pareto front. The chart may have `top`, which cuts its y axis, and
//                   log_x
//   bars            value, whole, part: the bar's text, its length and that of its darker part, if it has one
//   intervals       value, mean, half_width, singles: a mean with its interval, and the single values
#pragma once

#include "train/report/analysis.h"

namespace filigree {

nlohmann::ordered_json setting_charts(const Setting& setting, const Metric& metric);

// Tiles, gates and the hardened loss over the steps of a variant that learns its pattern; empty if it does
// not.
nlohmann::ordered_json learning_charts(const Variant& variant);

}  // namespace filigree
