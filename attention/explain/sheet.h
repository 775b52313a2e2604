// The plan that the PNG and the SVG of an explanation share: where panels, axes and the legend go, and what
// they say. Lengths are in units; the SVG is as many pixels large, the PNG two a unit where there are few
// panels.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/explain/picture.h"

namespace filigree {

struct Rgb {
  int red, green, blue;
};
inline constexpr Rgb kBackground{255, 255, 255}, kInk{51, 58, 68}, kFrame{120, 130, 145};
// Not computed though full attention would; computed and not needed; needed, which is to say allowed.
inline constexpr Rgb kAbsent{243, 245, 248}, kComputed{178, 203, 240}, kNeeded{21, 66, 138};
inline constexpr double kGridStrength = 0.22;  // of ink in a line of the grid

// Square panels in rows. A panel has two lines of title above it, the key axis below it, the query axis to
// its left.
class Sheet {
 public:
  static constexpr int kSide = 320;     // of a panel's picture
  static constexpr int kCharacter = 6;  // width; titles are cut to the side
  static constexpr int kLine = 12;      // from one line of text to the next
  static constexpr int kTick = 4, kSwatch = 9;

  explicit Sheet(std::size_t panels);
  int width() const { return kMargin + columns_ * (kLeft + kSide + kRight); }
  int height() const { return kMargin + rows_ * kRow + kLegend; }
  int left(std::size_t panel) const {  // of the picture
    return kMargin + static_cast<int>(panel) % columns_ * (kLeft + kSide + kRight) + kLeft;
  }
  int top(std::size_t panel) const { return kMargin + static_cast<int>(panel) / columns_ * kRow + kTop; }
  int legend_top() const { return height() - kLegend + 6; }
  int legend_left() const { return kMargin + 8; }

 private:
  static constexpr int kMargin = 8, kLeft = 76, kRight = 24, kTop = 32, kBottom = 40, kLegend = 36;
  static constexpr int kRow = kTop + kSide + kBottom;
  int columns_, rows_;
};

// "27 tiles, 75.0 % of full attention's tiles" of the panel's head.
std::string panel_caption(const Panel& panel);
// Tokens to be named on an axis, the length itself among them.
std::vector<std::int64_t> axis_ticks(std::int64_t n);
// Tokens from one line of the grid to the next: a tile, or 2, 4, 8 .. of them where lines would be too close.
std::int64_t grid_step(const TileLayout& layout);
std::string fitted(const std::string& title);  // cut to the width of a panel

struct LegendEntry {
  Rgb colour;
  std::string text;
};
std::vector<LegendEntry> legend_entries();
std::string legend_note(const TileLayout& layout);  // what the lines of the grid are

}  // namespace filigree
