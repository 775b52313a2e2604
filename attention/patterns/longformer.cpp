// Longformer (Beltagy et al. 2020, arXiv:2004.05150): a window and global tokens at the start.
#include "attention/intervals.h"
#include "attention/registry.h"

namespace filigree {
namespace {

class Longformer : public Pattern {
 public:
  Longformer(std::int64_t window, std::int64_t global) : window_(window), global_(global) {}

  bool allows(const Geometry& g, int, std::int64_t i, std::int64_t j) const override {
    return (-ahead(g) <= i - j && i - j <= behind(g)) || i < global_ || j < global_;
  }
  void row(const Geometry& g, int, std::int64_t i, Intervals& out) const override {
    out.clear();
    append_interval(out, 0, i < global_ ? g.n : global_);
    append_interval(out, std::max<std::int64_t>(0, i - behind(g)), i + ahead(g) + 1);
    clip(out, g.n);
  }

 private:
  std::int64_t behind(const Geometry& g) const { return g.causal ? window_ - 1 : window_ / 2; }
  std::int64_t ahead(const Geometry& g) const { return g.causal ? 0 : window_ / 2; }

  std::int64_t window_, global_;
};

}  // namespace

PatternPtr make_longformer(const YamlNode& body, const PatternContext&) {
  MapReader map(body, "longformer");
  const auto window = map.integer("window", 1, kMaxLength);
  const auto global = map.integer("global", 0, kMaxLength);
  map.done();
  return std::make_shared<Longformer>(window, global);
}

}  // namespace filigree
