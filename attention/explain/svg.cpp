// The SVG of an explanation: vectors in the coordinates of tokens, so that it is exact at any size. A row of
// full tiles is one rectangle; a partial tile shows its mask, drawn once for each of the layout's distinct
// masks.
#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "attention/explain/sheet.h"
#include "core/file.h"

namespace filigree {
namespace {

constexpr std::size_t kMostMaskBytes = 2 << 20;  // of drawn masks; beyond it partial tiles get a shade
constexpr int kShades = 16;

std::string hex(Rgb c) {
  return fmt::format("#{:02x}{:02x}{:02x}", c.red, c.green, c.blue);
}

std::string rectangle(std::int64_t x, std::int64_t y, std::int64_t width, std::int64_t height) {
  return fmt::format("M{} {}h{}v{}h-{}z", x, y, width, height, width);
}

// The allowed pairs of one mask: runs in a row, and rows with the same run in one rectangle.
std::string mask_path(const MaskTable& masks, std::int32_t id) {
  std::string path;
  std::map<std::pair<int, int>, int> open;  // (first, last + 1) to the row where it began
  const auto close = [&](const auto& run, int row) {
    const auto [first, end] = run->first;
    path += rectangle(first, run->second, end - first, row - run->second);
    return open.erase(run);
  };
  for (int row = 0; row <= masks.tile(); ++row) {
    std::map<std::pair<int, int>, int> now;
    for (int c = 0; row < masks.tile() && c < masks.tile();) {
      int end = c;
      while (end < masks.tile() && masks.bit(id, row, end)) ++end;
      if (end > c) now[{c, end}] = row;
      c = end + 1;
    }
    for (auto run = open.begin(); run != open.end();)
      run = now.contains(run->first) ? std::next(run) : close(run, row);
    open.merge(now);
  }
  return path;
}

double mask_share(const MaskTable& masks, std::int32_t id) {
  int bits = 0;
  for (const std::uint64_t word : masks.mask(id)) bits += std::popcount(word);
  return static_cast<double>(bits) / masks.tile() / masks.tile();
}

// The masks that one layout's panels draw their partial tiles with: none where masks would make the file too
// large.
class Masks {
 public:
  Masks(const TileLayout& layout, std::string prefix) : prefix_(std::move(prefix)) {
    for (std::int32_t id = 0; id < layout.masks().size(); ++id) {
      definitions_ +=
          fmt::format("<path id=\"{}{}\" d=\"{}\"/>\n", prefix_, id, mask_path(layout.masks(), id));
      if (definitions_.size() > kMostMaskBytes) {
        definitions_.clear();
        return;
      }
    }
    drawn_ = true;
  }
  bool drawn() const { return drawn_; }
  const std::string& definitions() const { return definitions_; }
  std::string use(std::int32_t id, std::int64_t x, std::int64_t y) const {
    return fmt::format("<use href=\"#{}{}\" x=\"{}\" y=\"{}\"/>\n", prefix_, id, x, y);
  }

 private:
  std::string prefix_, definitions_;
  bool drawn_ = false;
};

std::string filled(Rgb colour, const std::string& path, double opacity = 1) {
  if (path.empty()) return "";
  const std::string see_through = opacity < 1 ? fmt::format(" fill-opacity=\"{:.3g}\"", opacity) : "";
  return fmt::format("<path fill=\"{}\"{} d=\"{}\"/>\n", hex(colour), see_through, path);
}

// The tiles of a head, in tokens.
std::string tiles(const TileLayout& layout, int head, const Masks& masks) {
  const TilePattern& p = layout.of_head(head);
  const std::int64_t edge = layout.tile(), n = layout.n_queries();
  std::string computed, full, partial;
  std::map<int, std::string> shaded;
  for (std::int64_t q = 0; q < layout.query_tiles(); ++q) {
    const std::int64_t y = q * edge, height = std::min(edge, n - y);
    const auto add = [&](std::string& path, std::int64_t first, std::int64_t end) {
      path += rectangle(first * edge, y, std::min(end * edge, n) - first * edge, height);
    };
    for (auto t = p.row_offsets[q]; t < p.full_begin[q]; ++t) {
      const std::int64_t x = p.columns[t] * edge;
      add(computed, p.columns[t], p.columns[t] + 1);
      if (masks.drawn())
        partial += masks.use(p.mask_id[t], x, y);
      else
        add(shaded[static_cast<int>(
                std::ceil(std::sqrt(mask_share(layout.masks(), p.mask_id[t])) * kShades))],
            p.columns[t], p.columns[t] + 1);
    }
    for (auto t = p.full_begin[q], end = t; t < p.row_offsets[q + 1]; t = end) {
      for (end = t + 1; end < p.row_offsets[q + 1] && p.columns[end] == p.columns[end - 1] + 1;) ++end;
      add(full, p.columns[t], p.columns[t] + (end - t));
    }
  }
  std::string text = filled(kComputed, computed) + filled(kNeeded, full);
  for (const auto& [shade, path] : shaded)
    text += filled(kNeeded, path, static_cast<double>(shade) / kShades);
  return partial.empty() ? text : text + fmt::format("<g fill=\"{}\">\n{}</g>\n", hex(kNeeded), partial);
}

// In units: not all programs keep a line's width where tokens are scaled.
std::string grid(const TileLayout& layout) {
  const std::int64_t n = layout.n_queries(), step = grid_step(layout);
  std::string path;
  for (std::int64_t token = step; token < n; token += step) {
    const double at = static_cast<double>(token) / static_cast<double>(n) * Sheet::kSide;
    path += fmt::format("M0 {0:.6g}h{1}M{0:.6g} 0v{1}", at, Sheet::kSide);
  }
  return fmt::format(
      "<path fill=\"none\" stroke=\"{}\" stroke-opacity=\"{}\" stroke-width=\"0.6\" d=\"{}\"/>\n", hex(kInk),
      kGridStrength, path);
}

// Ticks, their tokens and the names of both axes, around a picture whose corner is at (0, 0).
std::string axes(std::int64_t n) {
  constexpr int side = Sheet::kSide, tick = Sheet::kTick, line = Sheet::kLine;
  std::string ticks, text;
  for (const std::int64_t token : axis_ticks(n)) {
    const double at = static_cast<double>(token) / static_cast<double>(n) * side;
    ticks += fmt::format("M{0:.5g} {1}v{2}M0 {0:.5g}h-{2}", at, side, tick);
    text += fmt::format("<text x=\"{:.5g}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", at,
                        side + tick + line - 2, grouped(token));
    text += fmt::format("<text x=\"-{}\" y=\"{:.5g}\" text-anchor=\"end\">{}</text>\n", tick + 3, at + 3.5,
                        grouped(token));
  }
  text += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">key (token)</text>\n", side / 2,
                      side + tick + 2 * line);
  text += fmt::format(
      "<text transform=\"translate(-66,{}) rotate(-90)\" text-anchor=\"middle\">query (token)</text>\n",
      side / 2);
  return fmt::format("<path fill=\"none\" stroke=\"{0}\" d=\"M0 0h{1}v{1}h-{1}z{2}\"/>\n{3}", hex(kFrame),
                     side, ticks, text);
}

std::string panel(const Panel& p, int left, int top, const Masks& masks) {
  const std::int64_t n = p.layout->n_queries();
  std::string text = fmt::format("<g transform=\"translate({},{})\">\n", left, top);
  text += fmt::format("<text y=\"-18\" font-weight=\"bold\">{}</text>\n<text y=\"-6\">{}</text>\n",
                      fitted(p.title), panel_caption(p));
  text += fmt::format("<g transform=\"scale({:.8g})\">\n",
                      static_cast<double>(Sheet::kSide) / static_cast<double>(n));
  text += filled(kAbsent, p.layout->causal() ? fmt::format("M0 0L{0} {0}H0z", n) : rectangle(0, 0, n, n));
  return text + tiles(*p.layout, p.head, masks) + "</g>\n" + grid(*p.layout) + axes(n) + "</g>\n";
}

std::string legend(const Sheet& sheet, const TileLayout& layout) {
  int x = sheet.legend_left();
  std::string text;
  for (const auto& [colour, words] : legend_entries()) {
    text +=
        fmt::format("<rect x=\"{0}\" y=\"{1}\" width=\"{3}\" height=\"{3}\" fill=\"{2}\" stroke=\"{4}\"/>\n",
                    x, sheet.legend_top(), hex(colour), Sheet::kSwatch, hex(kFrame));
    text += fmt::format("<text x=\"{}\" y=\"{}\">{}</text>\n", x + Sheet::kSwatch + 5, sheet.legend_top() + 8,
                        words);
    x += Sheet::kSwatch + 5 + (static_cast<int>(words.size()) + 3) * Sheet::kCharacter;
  }
  return text + fmt::format("<text x=\"{}\" y=\"{}\">{}</text>\n", sheet.legend_left(),
                            sheet.legend_top() + 8 + Sheet::kLine, legend_note(layout));
}

}  // namespace

void write_explanation_svg(const Explanation& explanation, const std::string& path) {
  const auto panels = picture_panels(explanation);
  const Sheet sheet(panels.size());
  std::string text = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"sans-serif\" font-size=\"10\" fill=\"{2}\">\n<rect width=\"{0}\" height=\"{1}\" "
      "fill=\"{3}\"/>\n",
      sheet.width(), sheet.height(), hex(kInk), hex(kBackground));
  std::map<const TileLayout*, Masks> masks;
  for (const Panel& p : panels) {
    const auto [made, is_new] = masks.try_emplace(p.layout, *p.layout, fmt::format("l{}m", masks.size()));
    if (is_new && !made->second.definitions().empty())
      text += "<defs>\n" + made->second.definitions() + "</defs>\n";
  }
  for (std::size_t p = 0; p < panels.size(); ++p)
    text += panel(panels[p], sheet.left(p), sheet.top(p), masks.at(panels[p].layout));
  write_file_atomically(path, text + legend(sheet, *panels.front().layout) + "</svg>\n");
}

}  // namespace filigree
