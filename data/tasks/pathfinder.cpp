// Pathfinder (Linsley et al. 2018; pixel by pixel as in Long Range Arena, Tay et al. 2021, 2.2.5): two long
// dashed contours and short distractors in a square picture, and two markers. Class 1: the markers stand at
// both ends of one contour; class 0: at an end of each. The picture is read row by row, one grey level a
// token, so data.seq_len is the square of its side.
//
// The published contour lengths are 6, 9 and 14 dashes; at 32 x 32 pixels 14 have room as dashes of one
// pixel. A dash is `dash` pixels long, one pixel is left out between dashes, and the direction turns by up to
// a sixteenth of a circle at each. Pixels of one contour follow each other at a distance of at most 2 (the
// larger of dx and dy), those of different contours are at least 4 apart: what is connected is never in
// doubt. Grey levels: background 0, contours 128 to 223 (one level each), markers 255, of 3 x 3 pixels.
// Everything is computed in integers.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "core/check.h"
#include "data/tasks/draws.h"
#include "data/tasks/registry.h"

namespace filigree {
namespace {

constexpr int kUnit = 8;         // positions are counted in eighths of a pixel
constexpr int kDirections = 64;  // the lattice points on the border of a square of half side 8
constexpr int kSeparation = 4;   // between pixels of different contours
constexpr int kTriesPerContour = 3000, kTriesPerPicture = 100;
constexpr std::int32_t kMarker = 255;

struct Point {
  int x = 0, y = 0;
};

// A step in direction d: the larger of |x| and |y| is one pixel.
Point step_of(int d) {
  const int side = d / 16, along = d % 16 - 8;
  switch (side) {
    case 0:
      return {8, along};
    case 1:
      return {-along, 8};
    case 2:
      return {-8, -along};
    default:
      return {along, -8};
  }
}

int distance(Point a, Point b) {
  return std::max(std::abs(a.x - b.x), std::abs(a.y - b.y));
}

using Contour = std::vector<Point>;  // its pixels, from one end to the other

// True if markers at an end of each would be connected.
bool ends_touch(const Contour& a, const Contour& b) {
  for (const Point p : {a.front(), a.back()})
    for (const Point q : {b.front(), b.back()})
      if (distance(p, q) <= 4) return true;
  return false;
}

class PathfinderTask : public GeneratedTask {
 public:
  void fields(Fields& f) override {
    f.integer("dashes", dashes_, between(2, 1000), "dashes of each of the two contours");
    f.integer("dash", dash_, between(1, 100), "length of a dash", {.unit = "pixels"});
    f.integer("distractors", distractors_, between(0, 1000), "contours of a third of the dashes beside them");
  }
  void fit(MapReader& map, std::int64_t seq_len) override;

  std::string name() const override { return "pathfinder"; }
  std::int64_t vocab_size() const override { return 256; }
  std::vector<std::string> class_names() const override { return {"apart", "connected"}; }
  DrawnSample draw(RandomStream& random, std::span<std::int32_t> inputs,
                   std::span<std::int32_t> targets) const override;

 private:
  bool draw_contours(RandomStream& random, std::vector<Contour>& contours) const;
  bool draw_contour(RandomStream& random, std::int64_t dashes, const std::vector<Contour>& others,
                    Contour& contour) const;
  bool is_free(Point pixel, const Contour& own, const std::vector<Contour>& others) const;

  int side_ = 0;
  std::int64_t dashes_ = 9, dash_ = 2, distractors_ = 4;
};

void PathfinderTask::fit(MapReader& map, std::int64_t seq_len) {
  side_ = static_cast<int>(std::llround(std::sqrt(static_cast<double>(seq_len))));
  if (std::int64_t{side_} * side_ != seq_len || side_ < 16)
    fail_at(map.node().mark,
            fmt::format("{}: data.seq_len must be the square of the picture's side, at least 16, not {}",
                        map.path(), seq_len),
            "for example 1024 for 32 x 32");
  RandomStream random(1);
  std::vector<Contour> contours;
  if (!draw_contours(random, contours))
    fail_at(
        map.node().mark,
        fmt::format("{}: two contours of {} dashes of {} pixels and {} distractors do not fit into {} x {}",
                    map.path(), dashes_, dash_, distractors_, side_, side_),
        "take a larger picture, or fewer");
}

// True if a contour may go on to this pixel. It may touch its own last dash only.
bool PathfinderTask::is_free(Point pixel, const Contour& own, const std::vector<Contour>& others) const {
  const auto inside = [&](int v) { return v >= 1 && v < side_ - 1; };  // room for a marker
  if (!inside(pixel.x) || !inside(pixel.y)) return false;
  const auto near = [&](Point p) { return distance(p, pixel) < kSeparation; };
  for (const Contour& other : others)
    if (std::ranges::any_of(other, near)) return false;
  const auto recent = std::min<std::ptrdiff_t>(std::ssize(own), 2 * (dash_ + kSeparation));
  return std::none_of(own.begin(), own.end() - recent, near);
}

bool PathfinderTask::draw_contour(RandomStream& random, std::int64_t dashes,
                                  const std::vector<Contour>& others, Contour& contour) const {
  contour.clear();
  Point at{static_cast<int>(random.range(0, side_ * kUnit - 1)),
           static_cast<int>(random.range(0, side_ * kUnit - 1))};
  int direction = static_cast<int>(random.below(kDirections));
  for (std::int64_t dash = 0; dash < dashes; ++dash) {
    for (std::int64_t i = 0; i <= dash_; ++i) {
      if (i < dash_) {
        const Point pixel{(at.x + kUnit / 2) / kUnit, (at.y + kUnit / 2) / kUnit};
        if (!is_free(pixel, contour, others)) return false;
        contour.push_back(pixel);
      }
      const Point step = step_of(direction);
      at = {at.x + step.x, at.y + step.y};
      if (at.x < 0 || at.y < 0) return false;
    }
    direction = (direction + static_cast<int>(random.range(-4, 4)) + kDirections) % kDirections;
  }
  return true;
}

// The two long contours and then the distractors; false if they found no room.
bool PathfinderTask::draw_contours(RandomStream& random, std::vector<Contour>& contours) const {
  for (int picture = 0; picture < kTriesPerPicture; ++picture) {
    contours.clear();
    for (int tries = 0; tries < kTriesPerContour && std::ssize(contours) < 2 + distractors_; ++tries) {
      const std::int64_t dashes = contours.size() < 2 ? dashes_ : std::max<std::int64_t>(2, dashes_ / 3);
      Contour contour;
      if (!draw_contour(random, dashes, contours, contour)) continue;
      if (contours.size() == 1 && ends_touch(contours[0], contour)) continue;
      contours.push_back(std::move(contour));
      tries = 0;
    }
    if (std::ssize(contours) == 2 + distractors_) return true;
  }
  return false;
}

DrawnSample PathfinderTask::draw(RandomStream& random, std::span<std::int32_t> inputs,
                                 std::span<std::int32_t> targets) const {
  std::vector<Contour> contours;
  check(draw_contours(random, contours), "a picture that fitted once fits no more");
  const auto set = [&](Point p, std::int32_t level) { inputs[p.y * side_ + p.x] = level; };
  for (const Contour& contour : contours) {
    const auto level = static_cast<std::int32_t>(random.range(128, 223));
    for (const Point& p : contour) set(p, level);
  }
  targets[0] = static_cast<std::int32_t>(random.below(2));
  const auto end_of = [&](const Contour& contour, bool last) {
    return last ? contour.back() : contour.front();
  };
  const bool end = random.below(2) != 0;
  const Point markers[] = {end_of(contours[0], end), targets[0] == 1
                                                         ? end_of(contours[0], !end)
                                                         : end_of(contours[1], random.below(2) != 0)};
  for (const Point& m : markers)
    for (int dy = -1; dy <= 1; ++dy)
      for (int dx = -1; dx <= 1; ++dx) set({m.x + dx, m.y + dy}, kMarker);
  return {std::ssize(inputs)};
}

}  // namespace

std::shared_ptr<GeneratedTask> make_pathfinder_task() {
  return std::make_shared<PathfinderTask>();
}

}  // namespace filigree
