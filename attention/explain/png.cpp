// The PNG of an explanation, drawn and written by hand: it needs no more than zlib.
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "attention/explain/sheet.h"
#include "core/file.h"

namespace filigree {
namespace {

constexpr std::size_t kMostSharp = 16;  // panels; of more, a unit is one pixel

Rgb mix(Rgb a, Rgb b, double share) {
  const auto channel = [share](int x, int y) { return static_cast<int>(std::lround(x + share * (y - x))); };
  return {channel(a.red, b.red), channel(a.green, b.green), channel(a.blue, b.blue)};
}

// Rows of 5 x 7 pixels, the highest of the 5 bits left; the characters that titles, axes and legend use.
const std::array<std::uint8_t, 7>* glyph(char c) {
  struct Glyph {
    char character;
    std::array<std::uint8_t, 7> rows;
  };
  static constexpr Glyph kFont[] = {
      {'0', {14, 17, 19, 21, 25, 17, 14}}, {'1', {4, 12, 4, 4, 4, 4, 14}},
      {'2', {14, 17, 1, 6, 8, 16, 31}},    {'3', {14, 17, 1, 6, 1, 17, 14}},
      {'4', {2, 6, 10, 18, 31, 2, 2}},     {'5', {31, 16, 30, 1, 1, 17, 14}},
      {'6', {6, 8, 16, 30, 17, 17, 14}},   {'7', {31, 1, 2, 4, 8, 8, 8}},
      {'8', {14, 17, 17, 14, 17, 17, 14}}, {'9', {14, 17, 17, 15, 1, 2, 12}},
      {'a', {0, 0, 14, 1, 15, 17, 15}},    {'b', {16, 16, 30, 17, 17, 17, 30}},
      {'c', {0, 0, 14, 17, 16, 17, 14}},   {'d', {1, 1, 13, 19, 17, 17, 15}},
      {'e', {0, 0, 14, 17, 31, 16, 14}},   {'f', {6, 9, 8, 28, 8, 8, 8}},
      {'g', {0, 15, 17, 17, 15, 1, 14}},   {'h', {16, 16, 22, 25, 17, 17, 17}},
      {'i', {4, 0, 12, 4, 4, 4, 14}},      {'k', {16, 16, 18, 20, 24, 20, 18}},
      {'l', {12, 4, 4, 4, 4, 4, 14}},      {'m', {0, 0, 26, 21, 21, 21, 21}},
      {'n', {0, 0, 22, 25, 17, 17, 17}},   {'o', {0, 0, 14, 17, 17, 17, 14}},
      {'p', {0, 30, 17, 17, 30, 16, 16}},  {'q', {0, 15, 17, 17, 15, 1, 1}},
      {'r', {0, 0, 22, 25, 16, 16, 16}},   {'s', {0, 0, 15, 16, 14, 1, 30}},
      {'t', {8, 8, 28, 8, 8, 9, 6}},       {'u', {0, 0, 17, 17, 17, 19, 13}},
      {'v', {0, 0, 17, 17, 17, 10, 4}},    {'w', {0, 0, 17, 17, 21, 21, 10}},
      {'x', {0, 0, 17, 10, 4, 10, 17}},    {'y', {0, 17, 17, 17, 15, 1, 14}},
      {'-', {0, 0, 0, 31, 0, 0, 0}},       {',', {0, 0, 0, 0, 12, 4, 8}},
      {'.', {0, 0, 0, 0, 0, 12, 12}},      {'%', {24, 25, 2, 4, 8, 19, 3}},
      {'(', {2, 4, 8, 8, 8, 4, 2}},        {')', {8, 4, 2, 2, 2, 4, 8}},
      {':', {0, 12, 12, 0, 12, 12, 0}},    {'\'', {4, 4, 8, 0, 0, 0, 0}},
  };
  for (const Glyph& g : kFont)
    if (g.character == c) return &g.rows;
  return nullptr;
}

// Pixels, addressed in units of the sheet.
class Canvas {
 public:
  Canvas(const Sheet& sheet, int scale)
      : scale_(scale),
        width_(sheet.width() * scale),
        height_(sheet.height() * scale),
        pixels_(static_cast<std::size_t>(width_) * height_ * 3, '\xff') {}

  int scale() const { return scale_; }

  void set(int x, int y, Rgb c) {  // pixels
    if (x < 0 || y < 0 || x >= width_ || y >= height_) return;
    char* p = &pixels_[(static_cast<std::size_t>(y) * width_ + x) * 3];
    p[0] = static_cast<char>(c.red);
    p[1] = static_cast<char>(c.green);
    p[2] = static_cast<char>(c.blue);
  }

  void fill(double left, double top, double width, double height, Rgb c) {
    const auto pixel = [this](double unit) { return static_cast<int>(std::lround(unit * scale_)); };
    for (int y = pixel(top); y < pixel(top + height); ++y)
      for (int x = pixel(left); x < pixel(left + width); ++x) set(x, y, c);
  }

  // The upper left corner of the first character; upward: from the lower left corner, read from the right.
  void text(double left, double top, const std::string& words, bool upward = false) {
    const double unit = 1;
    for (std::size_t k = 0; k < words.size(); ++k) {
      const auto* rows = glyph(words[k]);
      if (!rows) continue;  // a space
      const int down = std::string_view("gpqy,").find(words[k]) == std::string_view::npos ? 0 : 1;
      for (int y = 0; y < 7; ++y)
        for (int x = 0; x < 5; ++x) {
          const double along = static_cast<double>(k) * Sheet::kCharacter + x;
          if (!((*rows)[y] >> (4 - x) & 1)) continue;
          if (upward)
            fill(left + y + down, top - along - unit, unit, unit, kInk);
          else
            fill(left + along, top + y + down, unit, unit, kInk);
        }
    }
  }

  // PNG 1.2 (RFC 2083): signature, IHDR, IDAT, IEND.
  std::string png() const {
    std::string raw;
    for (int y = 0; y < height_; ++y) {
      raw += '\0';  // no filter
      raw.append(pixels_, static_cast<std::size_t>(y) * width_ * 3, static_cast<std::size_t>(width_) * 3);
    }
    uLongf size = compressBound(raw.size());
    std::string packed(size, '\0');
    const int status = compress2(reinterpret_cast<Bytef*>(packed.data()), &size,
                                 reinterpret_cast<const Bytef*>(raw.data()), raw.size(), 6);
    check(status == Z_OK, "zlib could not compress the picture");
    packed.resize(size);
    const std::string depth_and_type("\x08\x02\0\0\0", 5);  // 8 bits, RGB, deflate, no interlace
    return "\x89PNG\r\n\x1a\n" + chunk("IHDR", big_endian(width_) + big_endian(height_) + depth_and_type) +
           chunk("IDAT", packed) + chunk("IEND", "");
  }

 private:
  static std::string big_endian(std::size_t value) {
    std::string bytes;
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 0xff);
    return bytes;
  }
  static std::string chunk(const std::string& type, const std::string& data) {
    const std::string body = type + data;
    const auto crc = crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
    return big_endian(data.size()) + body + big_endian(crc);
  }

  int scale_, width_, height_;
  std::string pixels_;
};

// Which of side x side pixels a computed tile touches.
std::vector<bool> computed_pixels(const TileLayout& layout, int head, int side) {
  const TilePattern& p = layout.of_head(head);
  const std::int64_t n = layout.n_queries(), edge = layout.tile();
  const auto pixels = [&](std::int64_t tile) {  // first, last + 1
    return std::pair(tile * edge * side / n, (std::min((tile + 1) * edge, n) * side + n - 1) / n);
  };
  std::vector<bool> out(static_cast<std::size_t>(side) * static_cast<std::size_t>(side));
  for (std::int64_t q = 0; q < layout.query_tiles(); ++q) {
    const auto [y0, y1] = pixels(q);
    for (auto t = p.row_offsets[q]; t < p.row_offsets[q + 1]; ++t) {
      const auto [x0, x1] = pixels(p.columns[t]);
      for (std::int64_t y = y0; y < y1; ++y)
        std::fill(out.begin() + y * side + x0, out.begin() + y * side + x1, true);
    }
  }
  return out;
}

// Pixels that hold several pairs are the darker, the more of them are needed; the square root shows thin
// patterns.
void draw_tiles(Canvas& canvas, const Panel& panel, int left, int top) {
  const TileLayout& layout = *panel.layout;
  const int scale = canvas.scale(), side = Sheet::kSide * scale;
  const DensityGrid grid = density_grid(layout, panel.head, side);
  const std::vector<bool> computed = computed_pixels(layout, panel.head, side);
  const auto n = static_cast<double>(layout.n_queries()), step = static_cast<double>(grid_step(layout));
  std::vector<bool> lines(side);
  for (double at = step; at < n; at += step) lines[at / n * side] = true;
  for (int y = 0; y < side; ++y)
    for (int x = 0; x < side; ++x) {
      const float needed = grid.at(static_cast<int>(static_cast<std::int64_t>(y) * grid.size / side),
                                   static_cast<int>(static_cast<std::int64_t>(x) * grid.size / side));
      Rgb colour = needed == kBeyondCausality ? kBackground : kAbsent;
      if (computed[static_cast<std::size_t>(y) * static_cast<std::size_t>(side) +
                   static_cast<std::size_t>(x)])
        colour = mix(kComputed, kNeeded, needed > 0 ? std::sqrt(needed) : 0);
      if (lines[x] || lines[y]) colour = mix(colour, kInk, kGridStrength);
      canvas.set(left * scale + x, top * scale + y, colour);
    }
}

void draw_axes(Canvas& canvas, std::int64_t n, int left, int top) {
  constexpr int side = Sheet::kSide, tick = Sheet::kTick, character = Sheet::kCharacter;
  const double thin = 1.0 / canvas.scale();
  canvas.fill(left - thin, top - thin, side + 2 * thin, thin, kFrame);
  canvas.fill(left - thin, top + side, side + 2 * thin, thin, kFrame);
  canvas.fill(left - thin, top - thin, thin, side + 2 * thin, kFrame);
  canvas.fill(left + side, top - thin, thin, side + 2 * thin, kFrame);
  for (const std::int64_t token : axis_ticks(n)) {
    const double at = static_cast<double>(token) / static_cast<double>(n) * side;
    const std::string words = grouped(token);
    const double length = static_cast<double>(words.size()) * character;
    canvas.fill(left + at, top + side, thin, tick, kFrame);
    canvas.text(left + at - length / 2, top + side + tick + 3, words);
    canvas.fill(left - tick, top + at, tick, thin, kFrame);
    canvas.text(left - tick - 3 - length, top + at - 3, words);
  }
  const std::string key = "key (token)", query = "query (token)";
  canvas.text(left + (side - static_cast<double>(key.size()) * character) / 2,
              top + side + tick + 3 + Sheet::kLine, key);
  canvas.text(left - 72, top + (side + static_cast<double>(query.size()) * character) / 2, query, true);
}

void draw_legend(Canvas& canvas, const Sheet& sheet, const TileLayout& layout) {
  double x = sheet.legend_left();
  const double thin = 1.0 / canvas.scale();
  for (const auto& [colour, words] : legend_entries()) {
    canvas.fill(x - thin, sheet.legend_top() - thin, Sheet::kSwatch + 2 * thin, Sheet::kSwatch + 2 * thin,
                kFrame);
    canvas.fill(x, sheet.legend_top(), Sheet::kSwatch, Sheet::kSwatch, colour);
    canvas.text(x + Sheet::kSwatch + 5, sheet.legend_top() + 1, words);
    x += Sheet::kSwatch + 5 + (static_cast<double>(words.size()) + 3) * Sheet::kCharacter;
  }
  canvas.text(sheet.legend_left(), sheet.legend_top() + 1 + Sheet::kLine, legend_note(layout));
}

}  // namespace

void write_explanation_png(const Explanation& explanation, const std::string& path) {
  const auto panels = picture_panels(explanation);
  const Sheet sheet(panels.size());
  Canvas canvas(sheet, panels.size() <= kMostSharp ? 2 : 1);
  for (std::size_t p = 0; p < panels.size(); ++p) {
    const int left = sheet.left(p), top = sheet.top(p);
    canvas.text(left, top - 26, fitted(panels[p].title));
    canvas.text(left, top - 13, fitted(panel_caption(panels[p])));
    draw_tiles(canvas, panels[p], left, top);
    draw_axes(canvas, panels[p].layout->n_queries(), left, top);
  }
  draw_legend(canvas, sheet, *panels.front().layout);
  write_file_atomically(path, canvas.png());
}

}  // namespace filigree
