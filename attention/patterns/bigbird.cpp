// BigBird (Zaheer et al. 2020, arXiv:2007.14062): a window of blocks, global blocks, and random blocks drawn
// among those that window and globals leave out and causality allows; the first rows just have fewer of them.
#include <limits>

#include "attention/intervals.h"
#include "attention/registry.h"
#include "attention/sampling.h"

namespace filigree {
namespace {

struct BigBirdParameters {
  std::int64_t block, window, global, random, seed;
  bool per_head;
};

class BigBird : public Pattern {
 public:
  explicit BigBird(const BigBirdParameters& p) : p_(p) {}

  bool allows(const Geometry& g, int head, std::int64_t i, std::int64_t j) const override {
    const std::int64_t qb = i / p_.block, kb = j / p_.block;
    if (std::abs(qb - kb) <= p_.window / 2 || qb < p_.global || kb < p_.global) return true;
    const auto drawn = draw(g, head, qb);
    return std::binary_search(drawn.begin(), drawn.end(), kb);
  }

  void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const override {
    const std::int64_t qb = i / p_.block;
    if (qb < p_.global) {
      out.assign(1, {0, g.n});
      return;
    }
    out.clear();
    const auto add = [&](std::int64_t first, std::int64_t last) {  // blocks first .. last
      append_interval(out, first * p_.block, (last + 1) * p_.block);
    };
    add(0, p_.global - 1);
    const auto drawn = draw(g, head, qb);
    const auto after = std::lower_bound(drawn.begin(), drawn.end(), qb);
    for (auto kb = drawn.begin(); kb != after; ++kb) add(*kb, *kb);
    add(window_begin(qb), qb + p_.window / 2);
    for (auto kb = after; kb != drawn.end(); ++kb) add(*kb, *kb);
    clip(out, g.n);
  }

  int head_class(int head) const override { return p_.per_head ? head : 0; }

 private:
  // First block of the window that is not a global one.
  std::int64_t window_begin(std::int64_t qb) const { return std::max(p_.global, qb - p_.window / 2); }

  // The drawn blocks of a query block that is not global: candidates are [global, window) and, unless causal,
  // those beyond the window.
  std::vector<std::int64_t> draw(const Geometry& g, int head, std::int64_t qb) const {
    const std::int64_t blocks = (g.n + p_.block - 1) / p_.block;
    const std::int64_t before = window_begin(qb) - p_.global, resume = qb + p_.window / 2 + 1;
    const std::int64_t beyond = g.causal ? 0 : std::max<std::int64_t>(0, blocks - resume);
    std::vector<std::int64_t> drawn;
    sample({static_cast<std::uint64_t>(p_.seed), static_cast<std::uint32_t>(head_class(head)),
            static_cast<std::uint32_t>(qb)},
           before + beyond, p_.random, drawn);
    for (auto& kb : drawn) kb = kb < before ? p_.global + kb : resume + (kb - before);
    return drawn;
  }

  BigBirdParameters p_;
};

}  // namespace

PatternPtr make_bigbird(const YamlNode& body, const PatternContext&) {
  MapReader map(body, "bigbird");
  BigBirdParameters p{};
  p.block = map.integer("block", 1, kMaxLength, 64);
  p.window = map.integer("window", 1, kMaxLength, 3);
  p.global = map.integer("global", 0, kMaxLength, 2);
  p.random = map.integer("random", 0, kMaxLength, 3);
  p.seed = map.integer("seed", 0, std::numeric_limits<std::int64_t>::max(), 0);
  p.per_head = map.boolean("per_head", false);
  map.done();
  return std::make_shared<BigBird>(p);
}

}  // namespace filigree
