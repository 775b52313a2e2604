// "Fixed" pattern of the Sparse Transformer (Child et al. 2019, arXiv:1904.10509, section 4.3): the own block
// of `stride` tokens, and the last `summary` tokens of every block.
#include "attention/intervals.h"
#include "attention/registry.h"

namespace filigree {
namespace {

class Fixed : public Pattern {
 public:
  Fixed(std::int64_t stride, std::int64_t summary) : stride_(stride), summary_(summary) {}

  bool allows(const Geometry&, int, std::int64_t i, std::int64_t j) const override {
    return i / stride_ == j / stride_ || j % stride_ >= stride_ - summary_;
  }
  void row(const Geometry& g, int, std::int64_t i, Intervals& out) const override {
    out.clear();
    const std::int64_t own = i / stride_ * stride_, limit = g.causal ? i + 1 : g.n;
    for (std::int64_t block = 0; block < limit; block += stride_) {
      const std::int64_t begin = block == own ? own : block + stride_ - summary_;
      append_interval(out, begin, std::min(block + stride_, limit));
    }
  }

 private:
  std::int64_t stride_, summary_;
};

}  // namespace

PatternPtr make_fixed(const YamlNode& body, const PatternContext&) {
  MapReader map(body, "fixed");
  const auto stride = map.integer("stride", 1, kMaxLength);
  const auto summary = map.integer("summary", 1, stride);
  map.done();
  return std::make_shared<Fixed>(stride, summary);
}

}  // namespace filigree
