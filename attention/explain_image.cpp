// PNG and SVG of an explanation's pictures, written by hand: neither needs more than zlib.
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>

#include "attention/explain_picture.h"

namespace filigree {
namespace {

constexpr int kPicture = 256;    // pixels a side, or a little less where the length does not divide them
constexpr int kSvgPixels = 128;  // a side; more would make the file large
constexpr int kMargin = 20, kTitleHeight = 18;
constexpr int kCharacterWidth = 6;  // of the PNG's font, with its gap

struct Rgb {
  int red, green, blue;
};
constexpr Rgb kBackground{255, 255, 255}, kInk{51, 58, 68}, kFrame{208, 214, 224}, kAbsent{243, 245, 248};
constexpr Rgb kFaint{188, 208, 238}, kDense{21, 66, 138};

// Anything allowed is clearly darker than nothing; the square root spreads the low densities.
Rgb shade(float density) {
  if (density == kBeyondCausality) return kBackground;
  if (density == 0) return kAbsent;
  const float t = std::sqrt(density);
  const auto mix = [t](int a, int b) {
    return static_cast<int>(std::lround(a + t * static_cast<float>(b - a)));
  };
  return {mix(kFaint.red, kDense.red), mix(kFaint.green, kDense.green), mix(kFaint.blue, kDense.blue)};
}

std::string hex(Rgb c) {
  return fmt::format("#{:02x}{:02x}{:02x}", c.red, c.green, c.blue);
}

// Where the panels go.
struct Sheet {
  explicit Sheet(std::size_t panels)
      : columns(std::max(1, static_cast<int>(std::ceil(std::sqrt(static_cast<double>(panels)))))),
        rows((static_cast<int>(panels) + columns - 1) / columns) {}
  int width() const { return kMargin + columns * (kPicture + kMargin); }
  int height() const { return kMargin + rows * (kPicture + kTitleHeight + kMargin); }
  int left(std::size_t p) const { return kMargin + static_cast<int>(p) % columns * (kPicture + kMargin); }
  int top(std::size_t p) const {  // of the picture; its title stands above
    return kMargin + kTitleHeight + static_cast<int>(p) / columns * (kPicture + kTitleHeight + kMargin);
  }
  int columns, rows;
};

// Long titles are cut to the picture's width.
std::string fitted(const std::string& title) {
  const std::size_t fits = kPicture / kCharacterWidth;
  return title.size() <= fits ? title : title.substr(0, fits - 2) + "..";
}

void write_file(const std::string& path, const std::string& bytes) {
  errno = 0;
  std::ofstream out(path, std::ios::binary);
  out << bytes;
  out.close();
  if (!out) fail(ErrorKind::disk, "{}: cannot be written: {}", path, std::strerror(errno));
}

// Rows of 5 x 7 pixels, the highest of the 5 bits left; just the characters that titles use.
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
      {'a', {0, 0, 14, 1, 15, 17, 15}},    {'d', {1, 1, 13, 19, 17, 17, 15}},
      {'e', {0, 0, 14, 17, 31, 16, 14}},   {'h', {16, 16, 22, 25, 17, 17, 17}},
      {'l', {12, 4, 4, 4, 4, 4, 14}},      {'r', {0, 0, 22, 25, 16, 16, 16}},
      {'s', {0, 0, 15, 16, 14, 1, 30}},    {'y', {0, 17, 17, 17, 15, 1, 14}},
      {'-', {0, 0, 0, 31, 0, 0, 0}},       {',', {0, 0, 0, 0, 12, 4, 8}},
      {'.', {0, 0, 0, 0, 0, 12, 12}},
  };
  for (const Glyph& g : kFont)
    if (g.character == c) return &g.rows;
  return nullptr;
}

class Canvas {
 public:
  Canvas(int width, int height)
      : width_(width), height_(height), pixels_(static_cast<std::size_t>(width) * height * 3, '\xff') {}

  void set(int x, int y, Rgb c) {
    char* p = &pixels_[(static_cast<std::size_t>(y) * width_ + x) * 3];
    p[0] = static_cast<char>(c.red);
    p[1] = static_cast<char>(c.green);
    p[2] = static_cast<char>(c.blue);
  }

  void text(int left, int top, const std::string& words) {
    for (std::size_t k = 0; k < words.size(); ++k) {
      const auto* rows = glyph(words[k]);
      if (!rows) continue;  // a space
      for (int y = 0; y < 7; ++y)
        for (int x = 0; x < 5; ++x)
          if ((*rows)[y] >> (4 - x) & 1) set(left + static_cast<int>(k) * kCharacterWidth + x, top + y, kInk);
    }
  }

  void picture(int left, int top, const DensityGrid& grid) {
    const int scale = kPicture / grid.size, size = grid.size * scale;
    for (int y = -1; y <= size; ++y) {
      for (int x = -1; x <= size; ++x) {
        const bool frame = y < 0 || x < 0 || y == size || x == size;
        set(left + x, top + y, frame ? kFrame : shade(grid.at(y / scale, x / scale)));
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
                                 reinterpret_cast<const Bytef*>(raw.data()), raw.size(), 9);
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

  int width_, height_;
  std::string pixels_;
};

// Runs of one colour in a row become one rectangle; all rectangles of a colour one path.
std::string svg_picture(const DensityGrid& grid) {
  const int scale = kPicture / grid.size;
  std::vector<std::pair<std::string, std::string>> paths;  // colour, path
  for (int y = 0; y < grid.size; ++y) {
    for (int x = 0; x < grid.size;) {
      // 16 steps of colour keep the file small.
      const auto step = [&](int column) {
        const float density = grid.at(y, column);
        return density <= 0 ? density : std::ceil(std::sqrt(density) * 16) / 16;
      };
      const float here = step(x);
      int end = x + 1;
      while (end < grid.size && step(end) == here) ++end;
      if (here != kBeyondCausality) {
        const std::string colour = hex(shade(here > 0 ? here * here : here));
        auto path = std::find_if(paths.begin(), paths.end(), [&](auto& p) { return p.first == colour; });
        if (path == paths.end()) path = paths.insert(path, {colour, ""});
        path->second += fmt::format("M{} {}h{}v{}h-{}z", x * scale, y * scale, (end - x) * scale, scale,
                                    (end - x) * scale);
      }
      x = end;
    }
  }
  std::string text;
  for (const auto& [colour, path] : paths)
    text += fmt::format("<path fill=\"{}\" d=\"{}\"/>\n", colour, path);
  const int size = grid.size * scale;
  return text +
         fmt::format(
             "<rect x=\"-0.5\" y=\"-0.5\" width=\"{0}\" height=\"{0}\" fill=\"none\" stroke=\"{1}\"/>\n",
             size + 1, hex(kFrame));
}

}  // namespace

void write_explanation_png(const Explanation& explanation, const std::string& path) {
  const auto panels = picture_panels(explanation);
  const Sheet sheet(panels.size());
  Canvas canvas(sheet.width(), sheet.height());
  for (std::size_t p = 0; p < panels.size(); ++p) {
    canvas.text(sheet.left(p), sheet.top(p) - 12, fitted(panels[p].title));
    canvas.picture(sheet.left(p), sheet.top(p), density_grid(*panels[p].layout, panels[p].head, kPicture));
  }
  write_file(path, canvas.png());
}

void write_explanation_svg(const Explanation& explanation, const std::string& path) {
  const auto panels = picture_panels(explanation);
  const Sheet sheet(panels.size());
  std::string text = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"sans-serif\" font-size=\"12\" fill=\"{2}\" shape-rendering=\"crispEdges\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"{3}\"/>\n",
      sheet.width(), sheet.height(), hex(kInk), hex(kBackground));
  for (std::size_t p = 0; p < panels.size(); ++p) {
    text += fmt::format("<g transform=\"translate({},{})\">\n<text y=\"-6\">{}</text>\n", sheet.left(p),
                        sheet.top(p), fitted(panels[p].title));
    text += svg_picture(density_grid(*panels[p].layout, panels[p].head, kSvgPixels)) + "</g>\n";
  }
  write_file(path, text + "</svg>\n");
}

}  // namespace filigree
