#include "train/report/svg_canvas.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "train/report/html.h"
#include "train/report/svg.h"

namespace filigree {
namespace {

// Half units are finer than a pixel.
std::string number(double v) {
  const double rounded = std::round(v * 10) / 10;
  return fmt::format("{:g}", rounded == 0 ? 0.0 : rounded);
}

std::string path_of(const Points& points, const char* first = "M") {
  std::string d;
  for (const auto& [x, y] : points)
    d += fmt::format("{}{} {}", d.empty() ? first : "L", number(x), number(y));
  return d;
}

std::string style_class(std::size_t style) {
  return fmt::format("s{} k{}", style % kSeriesStyles, style / kSeriesStyles % 3);
}

// Where the characters of UTF-8 text begin.
std::vector<std::size_t> characters(const std::string& text) {
  std::vector<std::size_t> begins;
  for (std::size_t i = 0; i < text.size(); ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) begins.push_back(i);
  return begins;
}

// Names that begin alike often end differently, so it is the middle that goes.
std::string shortened(const std::string& words, std::size_t most) {
  const auto begins = characters(words);
  if (begins.size() <= most) return words;
  const std::size_t head = most / 2, tail = most - head - 1;
  return words.substr(0, begins[head]) + "…" + words.substr(begins[begins.size() - tail]);
}

}  // namespace

double text_width(const std::string& words, double character) {
  return character * static_cast<double>(characters(words).size());
}

Canvas::Canvas(double width, double height, const std::string& title, const std::string& description)
    : width_(width), height_(height), title_(title), description_(description) {}

void Canvas::line(double x1, double y1, double x2, double y2, const std::string& css) {
  body_ += fmt::format("<line class=\"{}\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>\n", css, number(x1),
                       number(y1), number(x2), number(y2));
}

void Canvas::rect(double x, double y, double width, double height, const std::string& css) {
  body_ += fmt::format("<rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>\n", css, number(x),
                       number(y), number(width), number(height));
}

void Canvas::path(const Points& points, const std::string& css) {
  if (points.size() > 1) body_ += fmt::format("<path class=\"{}\" d=\"{}\"/>\n", css, path_of(points));
}

void Canvas::polyline(const Points& points, std::size_t style) {
  path(points, "curve " + style_class(style));
}

void Canvas::band(const Points& low, const Points& high, std::size_t style) {
  Points back(low.rbegin(), low.rend());
  body_ += fmt::format("<path class=\"band s{}\" d=\"{}{}z\"/>\n", style % kSeriesStyles, path_of(high),
                       path_of(back, "L"));
}

// Circle, square, diamond, triangle, in turn.
void Canvas::marker(double x, double y, std::size_t style) {
  const std::string css = fmt::format("mark s{}", style % kSeriesStyles);
  const auto polygon = [&](const Points& points) {
    body_ += fmt::format("<path class=\"{}\" d=\"{}z\"/>\n", css, path_of(points));
  };
  switch (style % 4) {
    case 0:
      body_ +=
          fmt::format("<circle class=\"{}\" cx=\"{}\" cy=\"{}\" r=\"3.6\"/>\n", css, number(x), number(y));
      break;
    case 1:
      rect(x - 3.2, y - 3.2, 6.4, 6.4, css);
      break;
    case 2:
      polygon({{x, y - 4.4}, {x + 4.4, y}, {x, y + 4.4}, {x - 4.4, y}});
      break;
    default:
      polygon({{x, y - 4.2}, {x + 4.2, y + 3.4}, {x - 4.2, y + 3.4}});
  }
}

void Canvas::ring(double x, double y) {
  body_ += fmt::format("<circle class=\"ring\" cx=\"{}\" cy=\"{}\" r=\"7\"/>\n", number(x), number(y));
}

void Canvas::leader(double x1, double y1, double x2, double y2) {
  line(x1, y1, x2, y2, "leader");
}

void Canvas::text(double x, double y, const char* anchor, const std::string& css, const std::string& words) {
  body_ += fmt::format("<text class=\"{}\" x=\"{}\" y=\"{}\" text-anchor=\"{}\">{}</text>\n", css, number(x),
                       number(y), anchor, escape_html(words));
}

void Canvas::label(double x, double y, const char* anchor, std::size_t style, const std::string& words,
                   double width) {
  const std::string shown =
      shortened(words, static_cast<std::size_t>(std::max(3.0, width / kLabelCharacter)));
  const std::string whole = shown == words ? "" : fmt::format("<title>{}</title>", escape_html(words));
  body_ += fmt::format("<text class=\"label s{}\" x=\"{}\" y=\"{}\" text-anchor=\"{}\">{}{}</text>\n",
                       style % kSeriesStyles, number(x), number(y), anchor, whole, escape_html(shown));
}

// A nested svg cuts what leaves it, and needs no name that would have to be unique on the page.
void Canvas::begin_clip(double x, double y, double width, double height) {
  body_ += fmt::format("<svg x=\"{0}\" y=\"{1}\" width=\"{2}\" height=\"{3}\" viewBox=\"{0} {1} {2} {3}\">\n",
                       number(x), number(y), number(width), number(height));
}

void Canvas::end_clip() {
  body_ += "</svg>\n";
}

std::string Canvas::svg() const {
  return fmt::format(
      "<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}. {}\">\n{}</svg>\n",
      number(width_), number(height_), escape_html(title_), escape_html(description_), body_);
}

}  // namespace filigree
