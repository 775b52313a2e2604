#include "train/report/svg.h"

#include <algorithm>
#include <cmath>

#include "data/progress.h"
#include "train/report/html.h"
#include "train/report/html_style.h"
#include "train/report/svg_canvas.h"

namespace filigree {
namespace {

constexpr double kWidth = 380;
constexpr double kLabelHeight = 14;  // of labels that stand above each other

struct Range {
  double low = INFINITY, high = -INFINITY;
  void add(double v) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  // A little air on both sides; never empty.
  Range padded(double share) const {
    const double air = high > low ? share * (high - low) : std::max(1e-9, 0.05 * std::abs(high));
    return {low - air, high + air};
  }
};

double step_of(const std::vector<double>& ticks) {
  return ticks.size() > 1 ? ticks[1] - ticks[0] : ticks.empty() ? 1 : ticks[0];
}

// The frame of a plot: grid lines, ticks and the axes' names.
struct Plot {
  double left, right, top, bottom;
  AxisScale x, y;
};

void draw_frame(Canvas& canvas, const Plot& plot, const ChartText& text) {
  const auto rows = plot.y.ticks(5), columns = plot.x.ticks(4);
  const auto words = [](const AxisScale& axis, const std::vector<double>& ticks, double v) {
    return axis.logarithmic() ? fmt::format("{:g}", v) : tick_text(v, step_of(ticks));
  };
  for (const double v : rows) {
    canvas.line(plot.left, plot.y.at(v), plot.right, plot.y.at(v), "grid");
    canvas.text(plot.left - 5, plot.y.at(v) + 3.5, "end", "tick", words(plot.y, rows, v));
  }
  for (const double v : columns) {
    canvas.line(plot.x.at(v), plot.bottom, plot.x.at(v), plot.bottom + 4, "axis");
    canvas.text(plot.x.at(v), plot.bottom + 16, "middle", "tick", words(plot.x, columns, v));
  }
  canvas.line(plot.left, plot.bottom, plot.right, plot.bottom, "axis");
  canvas.text(0, 10, "start", "axisname", text.y);
  canvas.text(plot.right, plot.bottom + 31, "end", "axisname", text.x);
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

// The first place around the point where the label covers nothing; the least bad one if there is none.
PlacedLabel place_label(double x, double y, double width, const Plot& plot, const std::vector<Box>& taken) {
  PlacedLabel best;
  double least = INFINITY;
  for (const double reach : {9.0, 20.0, 34.0, 50.0})
    for (const auto& [dx, dy] : {std::pair(1.0, 0.0),
                                 {-1.0, 0.0},
                                 {0.0, -1.3},
                                 {0.0, 1.3},
                                 {0.8, -0.9},
                                 {0.8, 0.9},
                                 {-0.8, -0.9},
                                 {-0.8, 0.9}}) {
      const PlacedLabel label = label_at(x, y, dx * reach, dy * reach, width);
      double cost = reach / 100;
      for (const Box& box : taken) cost += label.box.overlaps(box) ? 10 : 0;
      if (label.box.left < plot.left + 2 || label.box.right > kWidth) cost += 40;
      if (label.box.top < plot.top - 8 || label.box.bottom > plot.bottom - 1) cost += 40;
      if (cost < least) {
        least = cost;
        best = label;
      }
    }
  return best;
}

}  // namespace

AxisScale::AxisScale(double low, double high, double from, double to, bool logarithmic)
    : low_(low), high_(high), from_(from), to_(to), logarithmic_(logarithmic) {
  if (!(high_ > low_)) high_ = low_ + std::max(1e-9, std::abs(low_) * 1e-3);
}

double AxisScale::at(double value) const {
  const auto map = [&](double v) { return logarithmic_ ? std::log(v) : v; };
  return from_ + (map(value) - map(low_)) / (map(high_) - map(low_)) * (to_ - from_);
}

std::vector<double> AxisScale::ticks(int count) const {
  std::vector<double> out;
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
  if (std::abs(value) < 1e-12) return "0";
  if (std::abs(value) >= 10000) {
    const bool mega = std::abs(value) >= 1e6;
    return fmt::format("{:g} {}", value / (mega ? 1e6 : 1e3), mega ? "M" : "k");
  }
  const double digits = std::ceil(-std::log10(std::max(1e-9, std::abs(step))) - 1e-9);
  const bool half = std::abs(step * std::pow(10, std::max(0.0, digits)) -
                             std::round(step * std::pow(10, std::max(0.0, digits)))) > 1e-6;
  return fmt::format("{:.{}f}", value, static_cast<int>(std::max(0.0, digits)) + (half ? 1 : 0));
}

std::string line_chart(const ChartText& text, const std::vector<Series>& series, const LineOptions& options) {
  Range xs, ys;
  for (const Series& s : series) {
    for (const auto* points : {&s.points, &s.low, &s.high})
      for (const auto& [x, y] : *points) {
        xs.add(x);
        ys.add(options.top ? std::min(y, *options.top) : y);
      }
  }
  if (options.ratio) ys.add(1);
  const Range y = options.ratio ? Range{ys.low / 1.1, ys.high * 1.1} : ys.padded(0.05);
  const double label_width = 112, height = 262;
  const Plot plot{42,
                  kWidth - label_width - 8,
                  22,
                  height - 36,
                  AxisScale(xs.low, xs.high, 42, kWidth - label_width - 8, options.log_x),
                  AxisScale(y.low, y.high, height - 36, 22, options.ratio)};
  Canvas canvas(kWidth, height, text.title, text.description);
  draw_frame(canvas, plot, text);
  canvas.begin_clip(plot.left, plot.top - 2, plot.right - plot.left + 3, plot.bottom - plot.top + 4);
  const auto mapped = [&](const auto& points) {
    std::vector<std::pair<double, double>> out;
    for (const auto& [px, py] : points) out.emplace_back(plot.x.at(px), plot.y.at(py));
    return out;
  };
  if (options.ratio) canvas.line(plot.left, plot.y.at(1), plot.right, plot.y.at(1), "even");
  for (const Series& s : series)
    if (!s.low.empty()) canvas.band(mapped(s.low), mapped(s.high), s.style);
  for (const Series& s : series) canvas.polyline(mapped(s.points), s.style);
  canvas.end_clip();
  std::vector<double> ends;
  for (const Series& s : series)
    ends.push_back(s.points.empty() ? plot.bottom
                                    : std::clamp(plot.y.at(s.points.back().second), plot.top, plot.bottom));
  const auto heights = spread(ends, plot.top, plot.bottom);
  for (std::size_t i = 0; i < series.size(); ++i) {
    if (series[i].points.empty()) continue;
    const double end = plot.x.at(series[i].points.back().first);
    canvas.marker(end, ends[i], series[i].style);
    canvas.leader(end + 4, ends[i], plot.right + 12, heights[i]);
    canvas.label(plot.right + 15, heights[i] + 4, "start", series[i].style, series[i].label, label_width - 8);
  }
  return canvas.svg();
}

std::string chart_sheet(const std::vector<ChartText>& texts, const std::vector<std::vector<Series>>& charts) {
  const double height = 300, gap = 24;
  std::string body;
  for (std::size_t c = 0; c < charts.size(); ++c) {
    std::string chart = line_chart(texts[c], charts[c], {std::nullopt, true, true});
    const double left = gap + static_cast<double>(c) * (kWidth + gap);
    chart.replace(chart.find("<svg "), 5,
                  fmt::format("<svg x=\"{}\" y=\"30\" width=\"{}\" height=\"262\" ", left, kWidth));
    body += fmt::format("<text class=\"heading\" x=\"{}\" y=\"20\">{}</text>\n{}", left,
                        escape_html(texts[c].title), chart);
  }
  const double width = gap + static_cast<double>(charts.size()) * (kWidth + gap);
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\">\n"
      "<style>\n{2}.heading {{ font: 600 13px system-ui, sans-serif; fill: var(--ink); }}\n</style>\n"
      "<rect width=\"{0}\" height=\"{1}\" style=\"fill: var(--card)\"/>\n{3}</svg>\n",
      width, height, report_style(), body);
}

std::string scatter_chart(const ChartText& text, const std::vector<ScatterPoint>& points) {
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
  const Range x = xs.padded(0.14), y = ys.padded(0.1);
  const double height = 290;
  const Plot plot{42,
                  kWidth - 6,
                  22,
                  height - 36,
                  AxisScale(std::max(0.0, x.low), x.high, 42, kWidth - 6),
                  AxisScale(y.low, y.high, height - 36, 22)};
  Canvas canvas(kWidth, height, text.title, text.description);
  draw_frame(canvas, plot, text);
  std::vector<std::pair<double, double>> front;
  std::vector<Box> taken;
  for (const ScatterPoint& p : points) {
    const double px = plot.x.at(p.x), py = plot.y.at(p.y);
    if (p.on_front) front.emplace_back(px, py);
    taken.push_back({px - 5, py - 5, px + 5, py + 5});
  }
  std::ranges::sort(front);
  canvas.path(front, "front");
  for (std::size_t i = 0; i + 1 < front.size(); ++i)  // labels keep off the front's line
    for (double t = 0.1; t < 1; t += 0.1) {
      const double fx = std::lerp(front[i].first, front[i + 1].first, t);
      const double fy = std::lerp(front[i].second, front[i + 1].second, t);
      taken.push_back({fx - 1, fy - 1, fx + 1, fy + 1});
    }
  for (const ScatterPoint& p : points) {
    const double px = plot.x.at(p.x), py = plot.y.at(p.y);
    const auto end = [&](double error) {
      return std::clamp(plot.y.at(p.y + error), plot.top - 8, plot.bottom);
    };
    if (p.y_error > 0) canvas.line(px, end(-p.y_error), px, end(p.y_error), "whisker");
    if (p.on_front) canvas.ring(px, py);
    canvas.marker(px, py, p.style);
  }
  for (const ScatterPoint& p : points) {
    const double px = plot.x.at(p.x), py = plot.y.at(p.y);
    const PlacedLabel label = place_label(px, py, canvas.text_width(p.label, 150), plot, taken);
    taken.push_back(label.box);
    const double near_x = std::clamp(px, label.box.left, label.box.right);
    const double near_y = std::clamp(py, label.box.top, label.box.bottom);
    if (std::hypot(near_x - px, near_y - py) > 12) canvas.line(px, py, near_x, near_y, "leader");
    canvas.label(label.x, label.y, label.anchor, p.style, p.label, 150);
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
    canvas.label(0, y + 12, "start", row.style, row.label,
                 kWidth - 10 - canvas.text_width(row.value, kWidth));
    canvas.text(kWidth, y + 12, "end", "value", row.value);
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
  Canvas canvas(kWidth, bottom + 34, text.title, text.description);
  const auto ticks = x.ticks(5);
  for (const double v : ticks) {
    canvas.line(x.at(v), 0, x.at(v), bottom, "grid");
    canvas.text(x.at(v), bottom + 14, "middle", "tick", tick_text(v, step_of(ticks)));
  }
  canvas.text(kWidth, bottom + 30, "end", "axisname", text.x);
  double y = 0;
  for (const DotRow& row : rows) {
    canvas.label(0, y + 12, "start", row.style, row.label,
                 kWidth - 10 - canvas.text_width(row.value, kWidth));
    canvas.text(kWidth, y + 12, "end", "value", row.value);
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
