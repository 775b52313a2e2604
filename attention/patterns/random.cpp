// Random keys per query. Draws honour causality, so an early query gets all the keys there are.
#include <limits>

#include "attention/intervals.h"
#include "attention/registry.h"
#include "attention/sampling.h"

namespace filigree {
namespace {

class Random : public Pattern {
 public:
  Random(std::int64_t keys, std::int64_t seed, bool per_head)
      : keys_(keys), seed_(static_cast<std::uint64_t>(seed)), per_head_(per_head) {}

  bool allows(const Geometry& g, int head, std::int64_t i, std::int64_t j) const override {
    const auto keys = draw(g, head, i);
    return std::binary_search(keys.begin(), keys.end(), j);
  }
  void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const override {
    out.clear();
    for (auto j : draw(g, head, i)) append_interval(out, j, j + 1);
  }
  int head_class(int head) const override { return per_head_ ? head : 0; }

 private:
  std::vector<std::int64_t> draw(const Geometry& g, int head, std::int64_t i) const {
    std::vector<std::int64_t> keys;
    sample({seed_, static_cast<std::uint32_t>(head_class(head)), static_cast<std::uint32_t>(i)},
           g.causal ? i + 1 : g.n, keys_, keys);
    return keys;
  }

  std::int64_t keys_;
  std::uint64_t seed_;
  bool per_head_;
};

}  // namespace

PatternPtr make_random(const YamlNode& body, const PatternContext&) {
  MapReader map(body, "random");
  const auto keys = map.integer("keys", 1, kMaxLength);
  const auto seed = map.integer("seed", 0, std::numeric_limits<std::int64_t>::max(), 0);
  const bool per_head = map.boolean("per_head", false);
  map.done();
  return std::make_shared<Random>(keys, seed, per_head);
}

}  // namespace filigree
