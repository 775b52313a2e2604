#include "train/bench/crossover_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ranges>

namespace filigree {
namespace {

constexpr double kWidth = 380, kHead = 22, kFoot = 36;  // units of the picture
constexpr double kRight = 252, kLabel = 14;  // where lines end and labels begin; the height of a label
constexpr std::size_t kLabelLetters = 15;

// Colours that can be told apart with any of the common colour blindnesses (after Okabe and Ito 2008).
constexpr const char* kStyle = R"(<style>
:root { --card: #ffffff; --ink: #1c2430; --soft: #566172; --grid: #e8ebf0; }
.s0 { --c: #0072b2; } .s1 { --c: #c44e00; } .s2 { --c: #007a59; } .s3 { --c: #a93f86; }
.s4 { --c: #8f6400; } .s5 { --c: #5a57c9; } .s6 { --c: #5f6b73; } .s7 { --c: #8c2f2a; }
@media (prefers-color-scheme: dark) {
  :root { --card: #1a2028; --ink: #e6eaf0; --soft: #a3aebd; --grid: #2a3240; }
  .s0 { --c: #5ab4f0; } .s1 { --c: #ff9a56; } .s2 { --c: #3cc9a0; } .s3 { --c: #f08cc8; }
  .s4 { --c: #dcae3c; } .s5 { --c: #a9a4ff; } .s6 { --c: #a7b3bb; } .s7 { --c: #ee8578; }
}
text { font: 10px system-ui, sans-serif; fill: var(--soft); }
.heading { font: 600 13px system-ui, sans-serif; fill: var(--ink); }
.label { font: 600 11px system-ui, sans-serif; fill: var(--c); }
.grid { stroke: var(--grid); } .axis { stroke: var(--soft); }
.even { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 5 4; }
.leader { stroke: var(--soft); stroke-width: 0.7; opacity: 0.6; }
.curve { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; }
.k1 { stroke-dasharray: 6 3; } .k2 { stroke-dasharray: 2 2.5; }
.band { fill: var(--c); opacity: 0.14; }
.mark { fill: var(--c); stroke: var(--card); }
</style>
)";

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text)
    out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

// Names that begin alike often end differently, so it is the middle that goes.
std::string shortened(const std::string& words) {
  std::vector<std::size_t> begins;  // of the characters of UTF-8 text
  for (std::size_t i = 0; i < words.size(); ++i)
    if ((static_cast<unsigned char>(words[i]) & 0xC0) != 0x80) begins.push_back(i);
  if (begins.size() <= kLabelLetters) return words;
  constexpr std::size_t kHalf = kLabelLetters / 2;
  return words.substr(0, begins[kHalf]) + "…" + words.substr(begins[begins.size() - kHalf]);
}

// Where values of a logarithmic axis stand: [low, high] onto [from, to].
struct Axis {
  double low = INFINITY, high = 0, from = 0, to = 1;
  void add(double v) {
    if (!std::isfinite(v) || v <= 0) return;
    low = std::min(low, v);
    high = std::max(high, v);
  }
  double at(double v) const {
    const double span = high > low ? std::log(high / low) : 1;
    return std::clamp(from + std::log(std::max(low, v) / low) / span * (to - from), std::min(from, to),
                      std::max(from, to));
  }
  // Powers of two, at most eight; where the range holds few, parts between.
  std::vector<double> ticks() const {
    std::vector<double> out;
    if (!(high > 0)) return out;
    const double each = std::max(1.0, std::ceil(std::log2(high / low) / 8));
    for (const int parts : {1, 2, 4}) {
      out.clear();
      for (double power = std::exp2(std::floor(std::log2(low))); power <= high; power *= std::exp2(each))
        for (int part = 0; part < parts; ++part)
          if (const double v = power * (1 + 1.0 * part / parts); v >= low * 0.999 && v <= high * 1.001)
            out.push_back(v);
      if (std::ssize(out) > 2) break;
    }
    return out;
  }
};

std::string line(const char* css, double x1, double y1, double x2, double y2) {
  return fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", css,
                     x1, y1, x2, y2);
}

std::string text(const std::string& css, double x, double y, const char* anchor, const std::string& words) {
  return fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", css, x, y,
                     anchor, words);
}

// Circle, square, diamond, triangle, in turn.
std::string marker(double x, double y, std::int64_t style) {
  static const std::vector<std::pair<double, double>> shapes[] = {
      {},
      {{-3.2, -3.2}, {3.2, -3.2}, {3.2, 3.2}, {-3.2, 3.2}},
      {{0, -4.4}, {4.4, 0}, {0, 4.4}, {-4.4, 0}},
      {{0, -4.2}, {4.2, 3.4}, {-4.2, 3.4}}};
  if (style % 4 == 0)
    return fmt::format("<circle class=\"mark s{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.6\"/>\n", style % 8, x,
                       y);
  std::string path;
  for (const auto& [dx, dy] : shapes[style % 4])
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x + dx, y + dy);
  return fmt::format("<path class=\"mark s{}\" d=\"{}z\"/>\n", style % 8, path);
}

double height_of(const SpeedChart& chart) {
  return kHead + kFoot + std::max(204.0, kLabel * static_cast<double>(chart.lines.size()));
}

std::string drawn(const SpeedChart& chart) {
  const double bottom = height_of(chart) - kFoot;
  Axis x{INFINITY, 0, 0, kRight}, y{1, 1, bottom, kHead};
  for (const SpeedLine& one : chart.lines)
    for (const auto& [length, speedup, low, high] : one.points) {
      x.add(length);
      for (const double v : {speedup, low, high}) y.add(v);
    }
  y.low /= 1.1;
  y.high *= 1.1;
  const auto width = [](double v) { return 6.8 * static_cast<double>(fmt::format("{:g}", v).size()); };
  double left = 24;  // as far as the numbers allow
  for (const double v : y.ticks()) left = std::max(left, 8 + width(v));
  x.from = left;
  std::string frame = text("axisname", 0, 10, "start", "times as fast as full attention") +
                      text("axisname", kWidth, bottom + 31, "end", "sequence length, tokens") +
                      line("axis", left, bottom, kRight, bottom) +
                      line("even", left, y.at(1), kRight, y.at(1));
  for (const double v : y.ticks())
    frame += line("grid", left, y.at(v), kRight, y.at(v)) +
             text("tick", left - 5, y.at(v) + 3.5, "end", fmt::format("{:g}", v));
  double end = 0;  // of the last number, which the next keeps off
  for (const double v : x.ticks()) {
    const double half = width(v) / 2;
    frame += line("axis", x.at(v), bottom, x.at(v), bottom + 4);
    if (x.at(v) - half < end + 6) continue;
    frame += text("tick", x.at(v), bottom + 16, "middle", fmt::format("{:g}", v));
    end = x.at(v) + half;
  }
  std::string bands, curves, labels;
  std::vector<std::pair<double, const SpeedLine*>> ends;  // heights of labels
  for (const SpeedLine& one : chart.lines) {
    std::string curve, above, below;
    for (const auto& [length, speedup, low, high] : one.points) {
      const char* step = curve.empty() ? "M" : "L";
      curve += fmt::format("{}{:.1f} {:.1f}", step, x.at(length), y.at(speedup));
      above += fmt::format("{}{:.1f} {:.1f}", step, x.at(length), y.at(high));
      below = fmt::format("L{:.1f} {:.1f}", x.at(length), y.at(low)) + below;
    }
    if (one.points.empty()) continue;
    bands += fmt::format("<path class=\"band s{}\" d=\"{}{}z\"/>\n", one.style % 8, above, below);
    curves +=
        fmt::format("<path class=\"curve s{} k{}\" d=\"{}\"/>\n", one.style % 8, one.style / 8 % 3, curve);
    ends.emplace_back(y.at(one.points.back()[1]), &one);
  }
  // Labels at the ends of their lines, moved apart where they would overlap.
  std::ranges::stable_sort(ends, {}, &std::pair<double, const SpeedLine*>::first);
  for (double above = kHead - kLabel; auto& [height, one] : ends)
    above = height = std::max(height, above + kLabel);
  for (double below = bottom + kLabel; auto& [height, one] : std::views::reverse(ends))
    below = height = std::min(height, below - kLabel);
  for (const auto& [height, one] : ends) {
    const double px = x.at(one->points.back()[0]), py = y.at(one->points.back()[1]);
    const std::string shown = shortened(one->label);
    const std::string whole =
        shown == one->label ? "" : fmt::format("<title>{}</title>", escaped(one->label));
    labels += line("leader", px + 4, py, kRight + 12, height) + marker(px, py, one->style) +
              text(fmt::format("label s{}", one->style % 8), kRight + 15, height + 4, "start",
                   whole + escaped(shown));
  }
  return fmt::format("role=\"img\" aria-label=\"{}. {}\">\n{}{}{}{}</svg>\n", escaped(chart.title),
                     escaped(chart.words), frame, bands, curves, labels);
}

}  // namespace

std::string speed_charts(const std::vector<SpeedChart>& charts) {
  constexpr double kGap = 24, kTitle = 30;
  double left = kGap, height = 0;
  std::string body;
  for (const SpeedChart& chart : charts) {
    const double own = height_of(chart);
    body += text("heading", left, 20, "start", escaped(chart.title)) +
            fmt::format("<svg x=\"{0}\" y=\"{1}\" width=\"{2}\" height=\"{3}\" viewBox=\"0 0 {2} {3}\" {4}",
                        left, kTitle, kWidth, own, drawn(chart));
    left += kWidth + kGap;
    height = std::max(height, kTitle + own + 8);
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\">\n{2}"
      "<rect width=\"{0}\" height=\"{1}\" style=\"fill: var(--card)\"/>\n{3}</svg>\n",
      left, height, kStyle, body);
}

}  // namespace filigree
