// A pattern's picture in the page's own colours.
#include <algorithm>
#include <array>
#include <cmath>

#include "attention/explain/picture.h"
#include "train/report/html.h"
#include "train/report/svg.h"

namespace filigree {
namespace {

constexpr int kPixels = 96;  // a side; more would make the page large
constexpr int kLevels = 6;

// 0: nothing allowed; anything allowed is at least 1. The square root spreads the low densities.
int level(float density) {
  if (density == kBeyondCausality) return -1;
  return density <= 0 ? 0 : std::max(1, static_cast<int>(std::ceil(std::sqrt(density) * kLevels)));
}

}  // namespace

std::string pattern_picture(const TileLayout& layout, int head, const std::string& description) {
  const DensityGrid grid = density_grid(layout, head, kPixels);
  std::array<std::string, kLevels + 1> paths;  // runs of one level in a row
  for (int y = 0; y < grid.size; ++y)
    for (int x = 0; x < grid.size;) {
      const int here = level(grid.at(y, x));
      int end = x + 1;
      while (end < grid.size && level(grid.at(y, end)) == here) ++end;
      if (here >= 0) paths[here] += fmt::format("M{} {}h{}v1h-{}z", x, y, end - x, end - x);
      x = end;
    }
  std::string text = fmt::format(
      "<svg class=\"picture\" viewBox=\"0 0 {0} {0}\" role=\"img\" aria-label=\"{1}\" "
      "shape-rendering=\"crispEdges\">\n",
      grid.size, escape_html(description));
  for (std::size_t l = 0; l < paths.size(); ++l)
    if (!paths[l].empty()) text += fmt::format("<path class=\"d{}\" d=\"{}\"/>\n", l, paths[l]);
  return text + "</svg>\n";
}

}  // namespace filigree
