#include "attention/intervals.h"
#include "attention/registry.h"

namespace filigree {
namespace {

class Strided : public Pattern {
 public:
  explicit Strided(std::int64_t stride) : stride_(stride) {}

  bool allows(const Geometry&, int, std::int64_t i, std::int64_t j) const override {
    return (i - j) % stride_ == 0;
  }
  void row(const Geometry& g, int, std::int64_t i, Intervals& out) const override {
    out.clear();
    const std::int64_t end = g.causal ? i + 1 : g.n;
    for (std::int64_t j = i % stride_; j < end; j += stride_) append_interval(out, j, j + 1);
  }

 private:
  std::int64_t stride_;
};

}  // namespace

PatternPtr make_strided(const YamlNode& body, const PatternContext&) {
  MapReader map(body, "strided");
  const auto stride = map.integer("stride", 1, kMaxLength);
  map.done();
  return std::make_shared<Strided>(stride);
}

}  // namespace filigree
