#include "attention/explain/picture.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace filigree {
namespace {

constexpr std::size_t kMaxTerminalPanels = 12;

// Adds up allowed pairs per pixel.
class PairCounter {
 public:
  PairCounter(const TileLayout& layout, int size)
      : layout_(layout),
        n_(layout.n_queries()),
        size_(size),
        counts_(static_cast<std::size_t>(size) * size) {}

  // First token of a pixel.
  std::int64_t begin(std::int64_t pixel) const { return (pixel * n_ + size_ - 1) / size_; }
  std::int64_t pixel(std::int64_t token) const { return token * size_ / n_; }
  double count(int y, int x) const { return counts_[static_cast<std::size_t>(y) * size_ + x]; }

  void add(const TilePattern& p) {
    for (std::int64_t q = 0; q < layout_.query_tiles(); ++q) {
      for (auto t = p.row_offsets[q]; t < p.full_begin[q]; ++t) add_partial(q, p.columns[t], p.mask_id[t]);
      for (auto t = p.full_begin[q]; t < p.row_offsets[q + 1]; ++t) add_full(q, p.columns[t]);
    }
  }

 private:
  double& at(std::int64_t y, std::int64_t x) { return counts_[y * size_ + x]; }

  void add_full(std::int64_t q, std::int64_t k) {
    const std::int64_t edge = layout_.tile();
    const std::int64_t i0 = q * edge, i1 = std::min(i0 + edge, n_), j0 = k * edge,
                       j1 = std::min(j0 + edge, n_);
    for (auto y = pixel(i0); y <= pixel(i1 - 1); ++y) {
      const auto rows = std::min(i1, begin(y + 1)) - std::max(i0, begin(y));
      for (auto x = pixel(j0); x <= pixel(j1 - 1); ++x)
        at(y, x) += static_cast<double>(rows * (std::min(j1, begin(x + 1)) - std::max(j0, begin(x))));
    }
  }

  void add_partial(std::int64_t q, std::int64_t k, std::int32_t id) {
    const MaskTable& masks = layout_.masks();
    const std::int64_t edge = layout_.tile(), i0 = q * edge, j0 = k * edge;
    const int rows = static_cast<int>(std::min(edge, n_ - i0));
    const int columns = static_cast<int>(std::min(edge, n_ - j0));
    if (pixel(i0) == pixel(i0 + rows - 1) && pixel(j0) == pixel(j0 + columns - 1)) {
      for (const std::uint64_t word : masks.mask(id)) at(pixel(i0), pixel(j0)) += std::popcount(word);
      return;
    }
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c)
        if (masks.bit(id, r, c)) at(pixel(i0 + r), pixel(j0 + c)) += 1;
  }

  const TileLayout& layout_;
  std::int64_t n_, size_;
  std::vector<double> counts_;
};

// Pairs in rows [i0, i1) and columns [j0, j1) with j <= i.
std::int64_t pairs_below_diagonal(std::int64_t i0, std::int64_t i1, std::int64_t j0, std::int64_t j1) {
  if (j1 - 1 <= i0) return (i1 - i0) * (j1 - j0);
  std::int64_t pairs = 0;
  for (auto i = std::max(i0, j0); i < i1; ++i) pairs += std::min(i + 1, j1) - j0;
  return pairs;
}

// Ordered dither after Bayer. The square root keeps thin patterns visible, and the lowest threshold shows
// at least one dot in 16 wherever there is anything.
bool dot(float density, int y, int x) {
  static constexpr int kBayer[4][4] = {{0, 8, 2, 10}, {12, 4, 14, 6}, {3, 11, 1, 9}, {15, 7, 13, 5}};
  return density > 0 && std::sqrt(density) * 16 > static_cast<float>(kBayer[y % 4][x % 4]);
}

// One line per four rows of dots, each of the same width in characters.
std::vector<std::string> braille_lines(const DensityGrid& grid, int dots) {
  const int scale = std::max(1, dots / grid.size), size = grid.size * scale;
  static constexpr int kBit[4][2] = {{0, 3}, {1, 4}, {2, 5}, {6, 7}};  // of Unicode's braille block
  std::vector<std::string> lines;
  for (int top = 0; top < size; top += 4) {
    std::string line;
    for (int left = 0; left < size; left += 2) {
      unsigned bits = 0;
      bool within = false;
      for (int y = top; y < std::min(top + 4, size); ++y) {
        for (int x = left; x < std::min(left + 2, size); ++x) {
          const float density = grid.at(y / scale, x / scale);
          within = within || density != kBeyondCausality;
          if (dot(density, y, x)) bits |= 1u << kBit[y - top][x - left];
        }
      }
      if (bits == 0) {
        line += within ? "·" : " ";
      } else {  // U+2800 + bits in UTF-8
        line += '\xE2';
        line += static_cast<char>(0xA0 | bits >> 6);
        line += static_cast<char>(0x80 | (bits & 63));
      }
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

std::string titled(std::string title, std::size_t width) {
  if (title.size() > width) title = title.substr(0, width - 2) + "..";
  return title + std::string(width - title.size(), ' ');
}

std::string without_trailing_spaces(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace

std::string grouped(std::int64_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (std::size_t k = 0; k < digits.size(); ++k) {
    if (k > 0 && (digits.size() - k) % 3 == 0) text += ',';
    text += digits[k];
  }
  return text;
}

std::string numbered(const char* noun, const std::vector<int>& ascending) {
  std::string text = fmt::format("{}{}", noun, ascending.size() == 1 ? "" : "s");
  for (std::size_t k = 0; k < ascending.size();) {
    std::size_t last = k;
    while (last + 1 < ascending.size() && ascending[last + 1] == ascending[last] + 1) ++last;
    text += fmt::format("{} {}", k > 0 ? "," : "", ascending[k]);
    if (last > k) text += fmt::format("-{}", ascending[last]);
    k = last + 1;
  }
  return text;
}

std::vector<Panel> picture_panels(const Explanation& explanation) {
  std::vector<Panel> panels;
  for (const LayerGroup& group : explanation.groups) {
    const auto& of_head = group.layout->head_pattern();
    for (int p = 0; p < static_cast<int>(group.layout->patterns().size()); ++p) {
      std::vector<int> heads;
      for (int h = 0; h < group.layout->n_heads(); ++h)
        if (of_head[h] == p) heads.push_back(h);
      panels.push_back({numbered("layer", group.layers) + ", " + numbered("head", heads), group.layout.get(),
                        heads.front()});
    }
  }
  return panels;
}

DensityGrid density_grid(const TileLayout& layout, int head, int max_size) {
  const auto size = static_cast<int>(std::min<std::int64_t>(max_size, layout.n_queries()));
  PairCounter counter(layout, size);
  counter.add(layout.of_head(head));
  DensityGrid grid{size, {}};
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const auto i0 = counter.begin(y), i1 = counter.begin(y + 1), j0 = counter.begin(x),
                 j1 = counter.begin(x + 1);
      const auto pairs = layout.causal() ? pairs_below_diagonal(i0, i1, j0, j1) : (i1 - i0) * (j1 - j0);
      grid.values.push_back(pairs == 0
                                ? kBeyondCausality
                                : static_cast<float>(counter.count(y, x) / static_cast<double>(pairs)));
    }
  }
  return grid;
}

std::string terminal_pictures(const Explanation& explanation) {
  auto panels = picture_panels(explanation);
  const std::size_t total = panels.size();
  if (total > kMaxTerminalPanels) panels.resize(kMaxTerminalPanels);
  const int dots = total == 1 ? 128 : 64;
  const std::size_t per_line = 3;
  std::string text;
  for (std::size_t first = 0; first < panels.size(); first += per_line) {
    std::string titles;
    std::vector<std::string> lines;
    for (std::size_t p = first; p < std::min(first + per_line, panels.size()); ++p) {
      const auto picture = braille_lines(density_grid(*panels[p].layout, panels[p].head, dots), dots);
      const std::string gap = p > first ? "   " : "";
      const auto size = std::min<std::int64_t>(dots, panels[p].layout->n_queries());
      const auto width = static_cast<std::size_t>((size * std::max<std::int64_t>(1, dots / size) + 1) / 2);
      titles += gap + (total == 1 ? panels[p].title : titled(panels[p].title, width));
      lines.resize(picture.size());
      for (std::size_t k = 0; k < picture.size(); ++k) lines[k] += gap + picture[k];
    }
    text += without_trailing_spaces(titles);
    for (auto& line : lines) text += without_trailing_spaces(std::move(line));
    text += "\n";
  }
  if (total > panels.size())
    text += fmt::format("({} of {} pictures; --svg or --png shows them all)\n\n", panels.size(), total);
  return text;
}

}  // namespace filigree
