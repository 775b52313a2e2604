// Pictures of layouts, before they become characters or pixels.
#pragma once

#include <string>
#include <vector>

#include "attention/explain/explain.h"

namespace filigree {

// One picture: the heads of some layers that share a TilePattern.
struct Panel {
  std::string title;
  const TileLayout* layout;
  int head;  // any of them
};
std::vector<Panel> picture_panels(const Explanation& explanation);

// size x size pixels, queries downward, keys to the right. A pixel is the share of allowed pairs among those
// that causality leaves in it, or kBeyondCausality where it leaves none.
inline constexpr float kBeyondCausality = -1;
struct DensityGrid {
  int size;
  std::vector<float> values;
  float at(int y, int x) const { return values[static_cast<std::size_t>(y) * size + x]; }
};
// A grid of min(max_size, N) pixels a side; exact at any length.
DensityGrid density_grid(const TileLayout& layout, int head, int max_size);

// Braille dots, dithered; a middle dot where causality leaves pairs and the pattern allows none.
std::string terminal_pictures(const Explanation& explanation);

// "16,777,216"
std::string grouped(std::int64_t value);
// numbered("head", {0, 1, 2, 6}) is "heads 0-2, 6".
std::string numbered(const char* noun, const std::vector<int>& ascending);

}  // namespace filigree
