// Random key blocks per query block; the own block is a candidate like any other.
#include <limits>

#include "attention/intervals.h"
#include "attention/registry.h"
#include "attention/sampling.h"

namespace filigree {
namespace {

class RandomBlocks : public Pattern {
 public:
  RandomBlocks(std::int64_t block, std::int64_t blocks, std::int64_t seed, bool per_head)
      : block_(block), blocks_(blocks), seed_(static_cast<std::uint64_t>(seed)), per_head_(per_head) {}

  bool allows(const Geometry& g, int head, std::int64_t i, std::int64_t j) const override {
    const auto drawn = draw(g, head, i / block_);
    return std::binary_search(drawn.begin(), drawn.end(), j / block_);
  }
  void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const override {
    out.clear();
    for (auto kb : draw(g, head, i / block_)) append_interval(out, kb * block_, (kb + 1) * block_);
    clip(out, g.n);
  }
  int head_class(int head) const override { return per_head_ ? head : 0; }

 private:
  std::vector<std::int64_t> draw(const Geometry& g, int head, std::int64_t qb) const {
    std::vector<std::int64_t> drawn;
    sample({seed_, static_cast<std::uint32_t>(head_class(head)), static_cast<std::uint32_t>(qb)},
           g.causal ? qb + 1 : (g.n + block_ - 1) / block_, blocks_, drawn);
    return drawn;
  }

  std::int64_t block_, blocks_;
  std::uint64_t seed_;
  bool per_head_;
};

}  // namespace

PatternPtr make_random_blocks(const YamlNode& body, const PatternContext&) {
  MapReader map(body, "random_blocks");
  const auto block = map.integer("block", 1, kMaxLength);
  const auto blocks = map.integer("blocks", 1, kMaxLength);
  const auto seed = map.integer("seed", 0, std::numeric_limits<std::int64_t>::max(), 0);
  const bool per_head = map.boolean("per_head", false);
  map.done();
  return std::make_shared<RandomBlocks>(block, blocks, seed, per_head);
}

}  // namespace filigree
