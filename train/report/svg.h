// Charts as inline SVG. They are drawn at a phone's width, 380 units, and grow with their column. Colours are
// classes (s0 .. s7, see the page's style sheet), so that they follow light and dark; each series also has a
// marker, a dash and a label of its own, so that nothing depends on telling colours apart.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "attention/tile_layout.h"

namespace filigree {

inline constexpr std::size_t kSeriesStyles = 8;

// Where values of an axis stand: [low, high] onto [from, to].
class AxisScale {
 public:
  AxisScale(double low, double high, double from, double to, bool logarithmic = false);
  double at(double value) const;
  // About `count` round values within the range; powers of two where logarithmic.
  std::vector<double> ticks(int count) const;
  bool logarithmic() const { return logarithmic_; }

 private:
  double low_, high_, from_, to_;
  bool logarithmic_;
};

// A tick's value without needless digits: "0.25", "20 k".
std::string tick_text(double value, double step);

// What a chart is called, and what a reader who does not see it is told.
struct ChartText {
  std::string title, description;
  std::string x, y;  // axes
};

struct Series {
  std::string label;
  std::size_t style = 0;
  std::vector<std::pair<double, double>> points;
  std::vector<std::pair<double, double>> low, high;  // a band around it; may be empty
};
struct LineOptions {
  std::optional<double> top;  // cuts the y axis, for the first steps of a run
  bool log_x = false;
  bool ratio = false;  // a logarithmic y axis with a dashed line at 1
};
// Lines with their labels at the right end.
std::string line_chart(const ChartText& text, const std::vector<Series>& series,
                       const LineOptions& options = {});

// Line charts with logarithmic axes side by side, as an SVG file that stands alone; a dashed line marks y
// = 1.
std::string chart_sheet(const std::vector<ChartText>& texts, const std::vector<std::vector<Series>>& charts);

struct ScatterPoint {
  std::string label;
  std::size_t style = 0;
  double x = 0, y = 0, y_error = 0;
  bool on_front = false;
};
// Labelled points; those on the front are ringed and joined.
std::string scatter_chart(const ChartText& text, const std::vector<ScatterPoint>& points);

struct BarRow {
  std::string label, value;
  std::size_t style = 0;
  double whole = 0;            // the bar
  std::optional<double> part;  // a darker part of it
};
std::string bar_chart(const ChartText& text, const std::vector<BarRow>& rows);

struct DotRow {
  std::string label, value;
  std::size_t style = 0;
  double mean = 0, half_width = 0;
  std::vector<double> singles;
};
// A mean with its interval and the single values a row.
std::string dot_chart(const ChartText& text, const std::vector<DotRow>& rows);

// What a head sees: queries downward, keys to the right (classes d0 .. d6 by the share of allowed pairs).
std::string pattern_picture(const TileLayout& layout, int head, const std::string& description);

}  // namespace filigree
