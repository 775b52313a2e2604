// The geometry of the crossover's chart: nothing leaves its picture or its frame, no label lies on another.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>

#include "train/bench/crossover_chart.h"

namespace filigree {
namespace {

struct Box {
  double left, top, right, bottom;
};

struct Element {
  std::string tag, css, words;
  std::map<std::string, double> numbers;
  Box box{};
  bool clipped = false;  // within a nested svg, which cuts it
};

// Wide fonts: DejaVu Sans at 11 px in bold, at 11 px, at 10 px.
double character_width(const std::string& css) {
  return css.starts_with("label") ? 7.4 : css == "value" ? 6.9 : css == "tick" ? 6.8 : 6.4;
}

std::size_t count_characters(const std::string& text) {
  return static_cast<std::size_t>(std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
}

void set_box(Element& e, const std::string& anchor, const std::string& path) {
  auto& n = e.numbers;
  if (e.tag == "line") {
    e.box = {std::min(n["x1"], n["x2"]), std::min(n["y1"], n["y2"]), std::max(n["x1"], n["x2"]),
             std::max(n["y1"], n["y2"])};
  } else if (e.tag == "rect") {
    e.box = {n["x"], n["y"], n["x"] + n["width"], n["y"] + n["height"]};
  } else if (e.tag == "circle") {
    e.box = {n["cx"] - n["r"], n["cy"] - n["r"], n["cx"] + n["r"], n["cy"] + n["r"]};
  } else if (e.tag == "text") {
    const double width = character_width(e.css) * static_cast<double>(count_characters(e.words));
    const double left = anchor == "end" ? n["x"] - width : anchor == "middle" ? n["x"] - width / 2 : n["x"];
    e.box = {left, n["y"] - 8, left + width, n["y"] + 2};
  } else if (e.tag == "path") {
    e.box = {INFINITY, INFINITY, -INFINITY, -INFINITY};
    static const std::regex point("[ML]([-0-9.e+]+) ([-0-9.e+]+)");
    for (std::sregex_iterator at(path.begin(), path.end(), point), end; at != end; ++at) {
      const double x = std::stod((*at)[1]), y = std::stod((*at)[2]);
      e.box = {std::min(e.box.left, x), std::min(e.box.top, y), std::max(e.box.right, x),
               std::max(e.box.bottom, y)};
    }
  }
}

struct Picture {
  double width = 0, height = 0;
  std::vector<Element> elements;
};

Picture read_picture(const std::string& svg) {
  static const std::regex tag("<(/?)([a-z]+)([^>]*)>([^<]*)"), attribute("([a-zA-Z0-9-]+)=\"([^\"]*)\"");
  Picture picture;
  int depth = 0;
  for (std::sregex_iterator at(svg.begin(), svg.end(), tag), end; at != end; ++at) {
    const std::string name = (*at)[2], attributes = (*at)[3];
    if (name == "svg" && (*at)[1] == "/") --depth;
    if ((*at)[1] == "/") continue;
    Element e{name, "", (*at)[4], {}, {}, depth > 1};
    std::string anchor, path;
    for (std::sregex_iterator a(attributes.begin(), attributes.end(), attribute); a != end; ++a) {
      const std::string key = (*a)[1], value = (*a)[2];
      if (key == "class") e.css = value;
      if (key == "text-anchor") anchor = value;
      if (key == "d") path = value;
      if (key == "viewBox" && depth == 0)
        std::sscanf(value.c_str(), "0 0 %lf %lf", &picture.width, &picture.height);
      if (value.find_first_not_of("-0123456789.e+") == std::string::npos && !value.empty())
        e.numbers[key] = std::stod(value);
    }
    if (name == "svg") ++depth;
    if (name == "svg") continue;
    set_box(e, anchor, path);
    picture.elements.push_back(e);
  }
  return picture;
}

void expect_sound(const std::string& svg, const std::string& what) {
  ASSERT_EQ(svg.find("nan"), std::string::npos) << what;
  ASSERT_EQ(svg.find("inf"), std::string::npos) << what;
  // What a cut label shows stands after its <title>.
  const Picture picture = read_picture(std::regex_replace(svg, std::regex("<title>[^<]*</title>"), ""));
  ASSERT_GT(picture.width, 0) << what;
  double bottom = picture.height;  // of the frame: where the x axis is
  for (const Element& e : picture.elements)
    if (e.css == "axis" && e.box.top == e.box.bottom) bottom = e.box.top;
  for (const Element& e : picture.elements) {
    if (e.clipped) continue;
    const std::string name = what + ": " + e.tag + " " + e.css + " " + e.words;
    EXPECT_GE(e.box.left, -0.1) << name;
    EXPECT_GE(e.box.top, -0.1) << name;
    EXPECT_LE(e.box.right, picture.width + 0.1) << name;
    EXPECT_LE(e.box.bottom, picture.height + 0.1) << name;
    if (e.css == "whisker" || e.css.starts_with("mark") || e.css == "grid") {
      EXPECT_LE(e.box.bottom, bottom + 5) << name;
    }
    if (e.css == "whisker") {
      EXPECT_GE(e.box.top, 21.9) << name << ", above the plot";
    }
  }
  for (const Element& a : picture.elements)
    for (const Element& b : picture.elements) {
      if (&a >= &b || a.tag != "text" || b.tag != "text") continue;
      const bool overlap = a.box.left < b.box.right && b.box.left < a.box.right && a.box.top < b.box.bottom &&
                           b.box.top < a.box.bottom;
      EXPECT_FALSE(overlap) << what << ": '" << a.words << "' and '" << b.words << "' lie over each other";
    }
}

std::string name_of(int i, bool is_long) {
  return is_long ? fmt::format("a pattern with a very long name that differs in its end {}", i)
                 : fmt::format("p{}", i);
}

// How many there are, what their names are like, where their values lie.
struct Shape {
  int n;
  bool long_names;
  double offset, scale, error;
  std::string text() const {
    return fmt::format("{} {} names, values {} + {} i ± {}", n, long_names ? "long" : "short", offset, scale,
                       error);
  }
};

std::vector<Shape> shapes() {
  std::vector<Shape> out;
  for (const int n : {1, 5, 20})
    for (const bool is_long : {false, true})
      for (const auto& [offset, scale, error] : {std::tuple(2.0, 0.01, 0.02),
                                                 {2.0, 0.0, 0.0},
                                                 {-3.0, 0.5, 9.0},
                                                 {1e12, 3e11, 1e12},
                                                 {1e-7, 1e-8, 0.0},
                                                 {123456.7, 0.1, 0.05},
                                                 {0.0, 1e30, 1e31},
                                                 {5.0, 0.0001, 400.0}})
        out.push_back({n, is_long, offset, scale, error});
  return out;
}

// The only chart of a sheet.
std::string chart_of(const std::vector<SpeedLine>& lines) {
  const std::string sheet = speed_charts({{"Title", "Description", lines}});
  const std::size_t begin = sheet.find("<svg x=");
  return sheet.substr(begin, sheet.find("</svg>", begin) + 6 - begin);
}

TEST(Charts, LinesStayInTheirFrame) {
  for (const Shape& shape : shapes()) {
    std::vector<SpeedLine> lines;
    for (int i = 0; i < shape.n; ++i) {
      SpeedLine line{name_of(i, shape.long_names), i, {}};
      for (const double step : {10.0, 500.0, 20000.0}) {
        const double y = shape.offset + shape.scale * i + 1 / step;
        line.points.push_back({step, y, y - shape.error, y + shape.error});
      }
      lines.push_back(line);
    }
    expect_sound(chart_of(lines), "ratios, " + shape.text());
  }
  // A speed that could not be told, and a pattern without any.
  expect_sound(
      chart_of({{"bad", 0, {{1, 2, 2, 2}, {2, INFINITY, 1, INFINITY}, {3, NAN, NAN, NAN}}}, {"none", 1, {}}}),
      "bad values");
}

TEST(Charts, LongNamesKeepTheirEnds) {
  const std::string svg = chart_of({{name_of(7, true), 0, {{1, 1, 1, 1}}}});
  EXPECT_NE(svg.find("<title>" + name_of(7, true) + "</title>a patte"), std::string::npos) << svg;
  EXPECT_NE(svg.find("end 7</text>"), std::string::npos) << svg;
}

}  // namespace
}  // namespace filigree
