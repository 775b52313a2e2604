// The strokes that charts are made of.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace filigree {

using Points = std::vector<std::pair<double, double>>;

class Canvas {
 public:
  // Units of the viewBox; `title` and `description` are read out in place of the picture.
  Canvas(double width, double height, const std::string& title, const std::string& description);

  void line(double x1, double y1, double x2, double y2, const std::string& css);
  void rect(double x, double y, double width, double height, const std::string& css);
  void path(const Points& points, const std::string& css);
  void polyline(const Points& points, std::size_t style);  // with the style's colour and dash
  void band(const Points& low, const Points& high, std::size_t style);
  void marker(double x, double y, std::size_t style);
  void ring(double x, double y);
  void leader(double x1, double y1, double x2, double y2);
  void text(double x, double y, const char* anchor, const std::string& css, const std::string& words);
  // In the style's colour, cut in its middle to `width` (the whole in a tooltip).
  void label(double x, double y, const char* anchor, std::size_t style, const std::string& words,
             double width);
  // What is drawn in between is cut to the rectangle.
  void begin_clip(double x, double y, double width, double height);
  void end_clip();

  std::string svg() const;

 private:
  double width_, height_;
  std::string title_, description_, body_;
};

// The widths of characters of labels, of values and of ticks: the mean of a wide font, DejaVu Sans.
inline constexpr double kLabelCharacter = 7.4, kValueCharacter = 6.9, kTickCharacter = 6.8;
double text_width(const std::string& words, double character);

}  // namespace filigree
