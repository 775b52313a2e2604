#include "train/report/svg.h"

#include <algorithm>
#include <cmath>

#include "train/report/html.h"
#include "train/report/html_style.h"
#include "train/report/svg_canvas.h"

namespace filigree {
namespace {

constexpr double kWidth = 380;
constexpr double kLabelHeight = 14;  // of labels that stand above each other
constexpr double kHead = 22,
                 kFoot = 36;          // above a plot: the name of its y axis; below: ticks and the other name
constexpr double kLabelColumn = 120;  // right of a line chart

struct Range {
  double low = INFINITY, high = -INFINITY;
  void add(double v) {
    if (!std::isfinite(v)) return;
    low = std::min(low, v);
    high = std::max(high, v);
  }
  // A little air on both sides; never empty.
  Range padded(double share) const {
    if (low > high) return {0, 1};
    const double air = high > low ? share * (high - low) : std::max(1e-9, 0.05 * std::abs(high));
    return {low - air, high + air};
  }
};

std::string tick_words(const AxisScale& axis, const std::vector<double>& ticks, double v) {
  if (axis.logarithmic()) return fmt::format("{:g}", v);
  return tick_text(v, ticks.size() > 1 ? ticks[1] - ticks[0] : v);
}

// Ticks below a plot, as many as have room, their texts within the picture, and the axis' name up to
// `name_end`. Grid lines reach up to `grid_top`, if that is above `bottom`.
void draw_x_axis(Canvas& canvas, const AxisScale& axis, double grid_top, double bottom,
                 const std::string& name, double name_end = kWidth) {
  struct Tick {
    double at, middle, width;
    std::string words;
  };
  std::vector<Tick> ticks;
  for (int count = 5; count > 0; --count) {
    ticks.clear();
    const auto values = axis.ticks(count);
    bool apart = true;
    for (const double v : values) {
      const std::string words = tick_words(axis, values, v);
      const double width = text_width(words, kTickCharacter);
      const double middle = std::clamp(axis.at(v), width / 2, std::max(width / 2, kWidth - width / 2));
      apart &= ticks.empty() || ticks.back().middle + ticks.back().width / 2 + 6 < middle - width / 2;
      ticks.push_back({axis.at(v), middle, width, words});
    }
    if (apart) break;
  }
  for (const Tick& tick : ticks) {
    if (grid_top < bottom) canvas.line(tick.at, grid_top, tick.at, bottom, "grid");
    canvas.line(tick.at, bottom, tick.at, bottom + 4, "axis");
    canvas.text(tick.middle, bottom + 16, "middle", "tick", tick.words);
  }
  canvas.text(name_end, bottom + 31, "end", "axisname", name);
}

struct Plot {
  double left, right, top, bottom;
  AxisScale x, y;
  std::pair<double, double> at(double px, double py) const { return {x.at(px), y.at(py)}; }
};

// The frame of a plot, as far left as its ticks allow: grid lines, ticks and the axes' names.
Plot draw_plot(Canvas& canvas, const ChartText& text, const Range& xs, const Range& ys, double right,
               double height, bool log_x = false, bool log_y = false) {
  const double bottom = height - kFoot;
  const AxisScale y(ys.low, ys.high, bottom, kHead, log_y);
  const auto rows = y.ticks(5);
  double left = 24;
  for (const double v : rows) left = std::max(left, 8 + text_width(tick_words(y, rows, v), kTickCharacter));
  const Plot plot{left, right, kHead, bottom, AxisScale(xs.low, xs.high, left, right, log_x), y};
  for (const double v : rows) {
    canvas.line(left, y.at(v), right, y.at(v), "grid");
    canvas.text(left - 5, y.at(v) + 3.5, "end", "tick", tick_words(y, rows, v));
  }
  // A name that is longer than the plot goes on below the labels.
  draw_x_axis(canvas, plot.x, bottom, bottom, text.x, std::max(right, text_width(text.x, kTickCharacter)));
  canvas.line(left, bottom, right, bottom, "axis");
  canvas.text(0, 10, "start", "axisname", text.y);
  return plot;
}

// Labels at their wished heights, moved apart where they would overlap.
std::vector<double> spread(const std::vector<double>& wished, double top, double bottom) {
  std::vector<std::size_t> order(wished.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::stable_sort(order, {}, [&](std::size_t i) { return wished[i]; });
  std::vector<double> out = wished;
  const double gap =
      std::min(kLabelHeight,
               wished.size() > 1 ? (bottom - top) / static_cast<double>(wished.size() - 1) : kLabelHeight);
  double above = top - gap;
  for (const std::size_t i : order) above = out[i] = std::max(out[i], above + gap);
  double below = bottom + gap;
  for (auto i = order.rbegin(); i != order.rend(); ++i) below = out[*i] = std::min(out[*i], below - gap);
  return out;
}

struct Box {
  double left, top, right, bottom;
  bool overlaps(const Box& o) const {
    return left < o.right && o.left < right && top < o.bottom && o.top < bottom;
  }
};

struct PlacedLabel {
  double x = 0, y = 0;
  const char* anchor = "start";
  Box box{};
};

PlacedLabel label_at(double x, double y, double dx, double dy, double width) {
  PlacedLabel label{x + dx, y + dy + 4, dx < -1 ? "end" : dx > 1 ? "start" : "middle", {}};
  const double left = dx < -1 ? label.x - width : dx > 1 ? label.x : label.x - width / 2;
  label.box = {left - 1, label.y - 10, left + width + 1, label.y + 3};
  return label;
}

// The place where a label covers least: around its point, or else anywhere in the plot. Other labels it never
// covers, as long as the plot has room for it.
PlacedLabel place_label(double x, double y, double width, const Plot& plot, const std::vector<Box>& labels,
                        const std::vector<Box>& marks) {
  constexpr double kForbidden = 1000;
  PlacedLabel best;
  double least = INFINITY;
  const auto consider = [&](const PlacedLabel& label, double reach) {
    double cost = reach / 100;
    for (const Box& box : marks) cost += label.box.overlaps(box) ? 10 : 0;
    for (const Box& box : labels) cost += label.box.overlaps(box) ? kForbidden : 0;
    if (label.box.left < plot.left + 2 || label.box.right > kWidth) cost += kForbidden;
    if (label.box.top < plot.top - 8 || label.box.bottom > plot.bottom - 1) cost += kForbidden;
    if (cost < least) {
      least = cost;
      best = label;
    }
  };
  for (const double reach : {9.0, 20.0, 34.0, 50.0})
    for (const auto& [dx, dy] : {std::pair(1.0, 0.0),
                                 {-1.0, 0.0},
                                 {0.0, -1.3},
                                 {0.0, 1.3},
                                 {0.8, -0.9},
                                 {0.8, 0.9},
                                 {-0.8, -0.9},
                                 {-0.8, 0.9}})
      consider(label_at(x, y, dx * reach, dy * reach, width), reach);
  if (least < kForbidden) return best;
  for (double top = plot.top; top < plot.bottom - kLabelHeight; top += kLabelHeight)
    for (double left = plot.left + 4; left + width < kWidth; left += 12)
      consider(label_at(left - 2, top + 6, 2, 0, width), std::hypot(left + width / 2 - x, top + 6 - y));
  return best;
}

double line_chart_height(std::size_t series) {
  return kHead + kFoot + std::max(204.0, kLabelHeight * static_cast<double>(series));
}

// The first line of a row: its label, and its value at the right.
void draw_row_text(Canvas& canvas, double y, std::size_t style, const std::string& label,
                   const std::string& value) {
  canvas.label(0, y + 12, "start", style, label, kWidth - 10 - text_width(value, kValueCharacter));
  canvas.text(kWidth, y + 12, "end", "value", value);
}

}  // namespace

AxisScale::AxisScale(double low, double high, double from, double to, bool logarithmic)
    : low_(low), high_(high), from_(from), to_(to), logarithmic_(logarithmic) {
  if (logarithmic_ && !(low_ > 0)) low_ = high_ > 0 ? 1e-6 * high_ : 1e-6;
  if (!(high_ > low_)) high_ = low_ + std::max(1e-9, std::abs(low_) * 1e-3);
}

double AxisScale::at(double value) const {
  const auto map = [&](double v) { return logarithmic_ ? std::log(std::max(v, 1e-6 * low_)) : v; };
  return from_ + (map(value) - map(low_)) / (map(high_) - map(low_)) * (to_ - from_);
}

std::vector<double> AxisScale::ticks(int count) const {
  std::vector<double> out;
  if (!std::isfinite(low_) || !std::isfinite(high_)) return out;
  if (logarithmic_) {
    // Powers of two; where the range holds few of them, parts between.
    for (const auto& parts : {std::vector<double>{1}, {1, 1.5}, {1, 1.25, 1.5, 1.75}}) {
      out.clear();
      for (double power = std::exp2(std::floor(std::log2(low_))); power <= high_; power *= 2)
        for (const double part : parts)
          if (power * part >= low_ * 0.999 && power * part <= high_ * 1.001) out.push_back(power * part);
      if (out.size() > 2) break;
    }
    while (out.size() > 2 * static_cast<std::size_t>(count)) {
      std::vector<double> thinned;
      for (std::size_t i = 0; i < out.size(); i += 2) thinned.push_back(out[i]);
      out = thinned;
    }
    return out;
  }
  const double rough = (high_ - low_) / count, power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double digit : {5.0, 2.5, 2.0, 1.0})
    if (digit * power >= rough * 0.7) step = digit * power;
  for (double k = std::ceil(low_ / step - 1e-9); k * step <= high_ + 1e-9 * step; ++k)
    out.push_back(k * step);
  return out;
}

std::string tick_text(double value, double step) {
  if (std::abs(value) < 1e-6 * std::abs(step) || value == 0) return "0";
  if (std::abs(value) >= 1e9) return fmt::format("{:.3g}", value);
  const double unit = std::abs(value) >= 1e6 ? 1e6 : std::abs(value) >= 1e4 ? 1e3 : 1;
  const double own = std::abs(step) / unit;
  int digits = static_cast<int>(std::clamp(std::ceil(-std::log10(std::max(1e-9, own)) - 1e-9), 0.0, 9.0));
  const double whole = own * std::pow(10, digits);
  if (std::abs(whole - std::round(whole)) > 1e-6) ++digits;
  return fmt::format("{:.{}f}{}", value / unit, digits, unit == 1 ? "" : unit == 1e3 ? " k" : " M");
}

std::string line_chart(const ChartText& text, const std::vector<Series>& series, const LineOptions& options) {
  Range xs, ys;
  for (const Series& s : series)
    for (const auto* points : {&s.points, &s.low, &s.high})
      for (const auto& [x, y] : *points) {
        xs.add(x);
        ys.add(options.top ? std::min(y, *options.top) : y);
      }
  if (options.ratio) ys.add(1);
  const Range y = options.ratio ? Range{ys.low / 1.1, ys.high * 1.1} : ys.padded(0.05);
  const double height = line_chart_height(series.size());
  Canvas canvas(kWidth, height, text.title, text.description);
  const Plot plot =
      draw_plot(canvas, text, xs, y, kWidth - kLabelColumn - 8, height, options.log_x, options.ratio);
  canvas.begin_clip(plot.left, plot.top, plot.right - plot.left, plot.bottom - plot.top);
  const auto mapped = [&](const auto& points) {
    Points out;
    for (const auto& [px, py] : points)
      if (std::isfinite(py)) out.push_back(plot.at(px, py));
    return out;
  };
  if (options.ratio) canvas.line(plot.left, plot.y.at(1), plot.right, plot.y.at(1), "even");
  for (const Series& s : series)
    if (!s.low.empty()) canvas.band(mapped(s.low), mapped(s.high), s.style);
  for (const Series& s : series) canvas.polyline(mapped(s.points), s.style);
  canvas.end_clip();
  std::vector<std::pair<double, double>> ends;  // of the lines
  std::vector<double> wished;
  for (const Series& s : series) {
    const auto last = mapped(s.points);
    ends.push_back(last.empty() ? std::pair(plot.right, plot.bottom) : last.back());
    ends.back().second = std::clamp(ends.back().second, plot.top, plot.bottom);
    wished.push_back(ends.back().second);
  }
  const auto heights = spread(wished, plot.top, plot.bottom);
  for (std::size_t i = 0; i < series.size(); ++i) {
    if (series[i].points.empty()) continue;
    canvas.marker(ends[i].first, ends[i].second, series[i].style);
    canvas.leader(ends[i].first + 4, ends[i].second, plot.right + 12, heights[i]);
    canvas.label(plot.right + 15, heights[i] + 4, "start", series[i].style, series[i].label,
                 kLabelColumn - 8);
  }
  return canvas.svg();
}

std::string chart_sheet(const std::vector<ChartText>& texts, const std::vector<std::vector<Series>>& charts) {
  const double gap = 24, head = 30;
  double left = gap, height = 0;
  std::string body;
  for (std::size_t c = 0; c < charts.size(); ++c) {
    const double own = line_chart_height(charts[c].size());
    std::string chart = line_chart(texts[c], charts[c], {std::nullopt, true, true});
    chart.replace(chart.find("<svg "), 5,
                  fmt::format("<svg x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" ", left, head, kWidth, own));
    body += fmt::format("<text class=\"heading\" x=\"{}\" y=\"20\">{}</text>\n{}", left,
                        escape_html(texts[c].title), chart);
    left += kWidth + gap;
    height = std::max(height, head + own + 8);
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\">\n"
      "<style>\n{2}.heading {{ font: 600 13px system-ui, sans-serif; fill: var(--ink); }}\n</style>\n"
      "<rect width=\"{0}\" height=\"{1}\" style=\"fill: var(--card)\"/>\n{3}</svg>\n",
      left, height, report_style(), body);
}

std::string scatter_chart(const ChartText& text, const std::vector<ScatterPoint>& points) {
  constexpr double kLabel = 150;
  Range xs, means, ys;
  for (const ScatterPoint& p : points) {
    xs.add(p.x);
    means.add(p.y);
  }
  // Intervals far wider than what lies between the points would press those together; they are cut.
  const double reach = means.high > means.low ? means.high - means.low : INFINITY;
  for (const ScatterPoint& p : points) {
    ys.add(p.y - std::min(p.y_error, reach));
    ys.add(p.y + std::min(p.y_error, reach));
  }
  Range x = xs.padded(0.14);
  if (xs.low >= 0) x.low = std::max(0.0, x.low);
  const double height = 290 + kLabelHeight * std::max(0.0, static_cast<double>(points.size()) - 12);
  Canvas canvas(kWidth, height, text.title, text.description);
  const Plot plot = draw_plot(canvas, text, x, ys.padded(0.1), kWidth - 6, height);
  Points front;
  std::vector<Box> marks, labels;
  for (const ScatterPoint& p : points) {
    const auto [px, py] = plot.at(p.x, p.y);
    if (p.on_front) front.emplace_back(px, py);
    marks.push_back({px - 5, py - 5, px + 5, py + 5});
  }
  std::ranges::sort(front);
  canvas.path(front, "front");
  for (std::size_t i = 0; i + 1 < front.size(); ++i)  // labels keep off the front's line
    for (double t = 0.1; t < 1; t += 0.1) {
      const double fx = std::lerp(front[i].first, front[i + 1].first, t);
      const double fy = std::lerp(front[i].second, front[i + 1].second, t);
      marks.push_back({fx - 1, fy - 1, fx + 1, fy + 1});
    }
  for (const ScatterPoint& p : points) {
    const auto [px, py] = plot.at(p.x, p.y);
    const auto end = [&](double error) { return std::clamp(plot.y.at(p.y + error), plot.top, plot.bottom); };
    if (p.y_error > 0) canvas.line(px, end(-p.y_error), px, end(p.y_error), "whisker");
    if (p.on_front) canvas.ring(px, py);
    canvas.marker(px, py, p.style);
  }
  for (const ScatterPoint& p : points) {
    const auto [px, py] = plot.at(p.x, p.y);
    const double width = std::min(kLabel, text_width(p.label, kLabelCharacter));
    const PlacedLabel label = place_label(px, py, width, plot, labels, marks);
    labels.push_back(label.box);
    const double near_x = std::clamp(px, label.box.left, label.box.right);
    const double near_y = std::clamp(py, label.box.top, label.box.bottom);
    if (std::hypot(near_x - px, near_y - py) > 12) canvas.line(px, py, near_x, near_y, "leader");
    canvas.label(label.x, label.y, label.anchor, p.style, p.label, kLabel);
  }
  return canvas.svg();
}

std::string bar_chart(const ChartText& text, const std::vector<BarRow>& rows) {
  constexpr double kRow = 34;
  double most = 0;
  for (const BarRow& row : rows) most = std::max(most, row.whole);
  Canvas canvas(kWidth, kRow * static_cast<double>(rows.size()) + 2, text.title, text.description);
  double y = 0;
  for (const BarRow& row : rows) {
    const auto width = [&](double v) { return most > 0 ? std::max(1.0, kWidth * v / most) : 1; };
    draw_row_text(canvas, y, row.style, row.label, row.value);
    canvas.rect(0, y + 17, width(row.whole), 9,
                fmt::format("{}s{}", row.part ? "pale " : "solid ", row.style % kSeriesStyles));
    if (row.part)
      canvas.rect(0, y + 17, width(*row.part), 9, fmt::format("solid s{}", row.style % kSeriesStyles));
    y += kRow;
  }
  return canvas.svg();
}

std::string dot_chart(const ChartText& text, const std::vector<DotRow>& rows) {
  constexpr double kRow = 36;
  Range range;
  for (const DotRow& row : rows) {
    range.add(row.mean - row.half_width);
    range.add(row.mean + row.half_width);
    for (const double v : row.singles) range.add(v);
  }
  const Range padded = range.padded(0.04);
  const double bottom = kRow * static_cast<double>(rows.size()) + 4;
  const AxisScale x(padded.low, padded.high, 8, kWidth - 8);
  Canvas canvas(kWidth, bottom + kFoot, text.title, text.description);
  draw_x_axis(canvas, x, 0, bottom, text.x);
  double y = 0;
  for (const DotRow& row : rows) {
    draw_row_text(canvas, y, row.style, row.label, row.value);
    for (const double v : row.singles)
      canvas.line(x.at(v), y + 20, x.at(v), y + 28, fmt::format("single s{}", row.style % kSeriesStyles));
    if (row.half_width > 0)
      canvas.line(x.at(row.mean - row.half_width), y + 24, x.at(row.mean + row.half_width), y + 24,
                  fmt::format("interval s{}", row.style % kSeriesStyles));
    canvas.marker(x.at(row.mean), y + 24, row.style);
    y += kRow;
  }
  return canvas.svg();
}

}  // namespace filigree
