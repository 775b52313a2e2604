// Sliding window, optionally dilated. `window` counts the query itself: FlashAttention's `left` is window
// - 1.
#include "attention/intervals.h"
#include "attention/registry.h"

namespace filigree {
namespace {

class Local : public Pattern {
 public:
  Local(std::int64_t window, std::int64_t dilation) : window_(window), dilation_(dilation) {}

  bool allows(const Geometry& g, int, std::int64_t i, std::int64_t j) const override {
    const std::int64_t distance = i - j;
    if (distance % dilation_ != 0) return false;
    const std::int64_t steps = distance / dilation_;
    return -ahead(g) <= steps && steps <= behind(g);
  }

  void row(const Geometry& g, int, std::int64_t i, Intervals& out) const override {
    out.clear();
    const std::int64_t back = std::min(behind(g), i / dilation_);
    const std::int64_t front = std::min(ahead(g), (g.n - 1 - i) / dilation_);
    if (dilation_ == 1) {
      append_interval(out, i - back, i + front + 1);
      return;
    }
    for (std::int64_t step = -back; step <= front; ++step)
      append_interval(out, i + step * dilation_, i + step * dilation_ + 1);
  }

 private:
  std::int64_t behind(const Geometry& g) const { return g.causal ? window_ - 1 : window_ / 2; }
  std::int64_t ahead(const Geometry& g) const { return g.causal ? 0 : window_ / 2; }

  std::int64_t window_, dilation_;
};

}  // namespace

PatternPtr make_local(const YamlNode& body, const PatternContext&) {
  MapReader map(body, "local");
  const auto window = map.integer("window", 1, kMaxLength);
  const auto dilation = map.integer("dilation", 1, kMaxLength, 1);
  map.done();
  return std::make_shared<Local>(window, dilation);
}

}  // namespace filigree
