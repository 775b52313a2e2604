#include "attention/explain/sheet.h"

#include <algorithm>
#include <cmath>

namespace filigree {

Sheet::Sheet(std::size_t panels)
    : columns_(std::max(1, static_cast<int>(std::ceil(std::sqrt(static_cast<double>(panels)))))),
      rows_((static_cast<int>(panels) + columns_ - 1) / columns_) {}

std::string panel_caption(const Panel& panel) {
  const TileLayout& layout = *panel.layout;
  const std::int64_t tiles = layout.of_head(panel.head).tiles();
  const auto full = full_cells(layout.query_tiles(), layout.key_tiles(), layout.causal());
  return fmt::format("{} tile{}, {}", tiles, tiles == 1 ? "" : "s",
                     of_full_text(static_cast<double>(tiles), static_cast<double>(full)));
}

std::vector<std::int64_t> axis_ticks(std::int64_t n) {
  const std::int64_t most = n < 100'000 ? 6 : 4;  // numbers of seven digits need more space
  std::int64_t step = 1;
  while (n / step > most) step *= 2;
  std::vector<std::int64_t> ticks;
  for (std::int64_t token = 0; token + step * 17 / 20 <= n; token += step) ticks.push_back(token);
  if (ticks.empty() || ticks.back() < n) ticks.push_back(n);
  return ticks;
}

std::int64_t grid_step(const TileLayout& layout) {
  constexpr double kLeast = 5;  // units
  std::int64_t step = layout.tile();
  while (static_cast<double>(step) * Sheet::kSide < kLeast * static_cast<double>(layout.n_queries()))
    step *= 2;
  return step;
}

std::string fitted(const std::string& title) {
  constexpr std::size_t kFits = Sheet::kSide / Sheet::kCharacter;
  return title.size() <= kFits ? title : title.substr(0, kFits - 2) + "..";
}

std::vector<LegendEntry> legend_entries() {
  return {{kNeeded, "needed"}, {kComputed, "computed, not needed"}, {kAbsent, "not computed"}};
}

std::string legend_note(const TileLayout& layout) {
  const std::int64_t step = grid_step(layout), tile = layout.tile();
  return step == tile ? fmt::format("grid: tiles of {} x {} tokens", tile, tile)
                      : fmt::format("grid: a line every {} tiles of {} x {} tokens", step / tile, tile, tile);
}

}  // namespace filigree
