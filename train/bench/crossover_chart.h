// The plot of a crossover: how many times as fast as full attention, over the length of the sequence.
#pragma once

#include <array>
#include <string>
#include <vector>

namespace filigree {

struct SpeedLine {
  std::string label;
  std::int64_t style = 0;                     // its colour, marker and dash
  std::vector<std::array<double, 4>> points;  // length, speedup, and the quartiles around it
};
struct SpeedChart {
  std::string title, words;  // what it is called, and what a reader who does not see it is told
  std::vector<SpeedLine> lines;
};

// Charts with logarithmic axes side by side, as an SVG file that stands alone; a dashed line marks where both
// are as fast, and every line has its label at its right end.
std::string speed_charts(const std::vector<SpeedChart>& charts);

}  // namespace filigree
