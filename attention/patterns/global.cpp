// Global tokens: they see every key, and every query sees them.
#include "attention/intervals.h"
#include "attention/registry.h"

namespace filigree {
namespace {

class Global : public Pattern {
 public:
  // Ascending, distinct.
  explicit Global(std::vector<std::int64_t> positions) : positions_(std::move(positions)) {
    for (auto p : positions_) append_interval(row_of_others_, p, p + 1);
  }

  bool allows(const Geometry&, int, std::int64_t i, std::int64_t j) const override {
    return is_global(i) || is_global(j);
  }

  void row(const Geometry& g, int, std::int64_t i, Intervals& out) const override {
    if (is_global(i)) {
      out.assign(1, {0, g.n});
    } else {
      out = row_of_others_;
      clip(out, g.n);
    }
  }

 private:
  bool is_global(std::int64_t i) const { return std::binary_search(positions_.begin(), positions_.end(), i); }

  std::vector<std::int64_t> positions_;
  Intervals row_of_others_;
};

class GlobalPositions : public Global {
 public:
  GlobalPositions(const std::vector<std::int64_t>& positions, Mark mark)
      : Global(positions), last_(positions.back()), mark_(std::move(mark)) {}

  void validate(const Geometry& g, int) const override {
    if (last_ >= g.n)
      fail_at(mark_, fmt::format("global.positions names token {}, but the sequence has {}", last_, g.n));
  }

 private:
  std::int64_t last_;
  Mark mark_;
};

// The first `count` tokens, of which a shorter sequence has fewer.
class GlobalPrefix : public Pattern {
 public:
  explicit GlobalPrefix(std::int64_t count) : count_(count) {}

  bool allows(const Geometry&, int, std::int64_t i, std::int64_t j) const override {
    return i < count_ || j < count_;
  }
  void row(const Geometry& g, int, std::int64_t i, Intervals& out) const override {
    out.assign(1, {0, i < count_ ? g.n : std::min(count_, g.n)});
  }

 private:
  std::int64_t count_;
};

std::vector<std::int64_t> read_positions(const YamlNode& node) {
  if (!node.is_sequence() || node.items.empty())
    fail_at(node.mark, "global.positions must be a list of tokens, such as [0, 512]");
  std::vector<std::int64_t> positions;
  for (const auto& item : node.items) {
    const auto p = as_integer(item, "global.positions", 0, kMaxLength - 1);
    if (std::find(positions.begin(), positions.end(), p) != positions.end())
      fail_at(item.mark, fmt::format("global.positions names token {} twice", p));
    positions.push_back(p);
  }
  std::sort(positions.begin(), positions.end());
  return positions;
}

}  // namespace

PatternPtr make_global(const YamlNode& body, const PatternContext&) {
  MapReader map(body, "global");
  const YamlNode* tokens = map.find("tokens");
  const YamlNode* positions = map.find("positions");
  map.done();
  if ((tokens != nullptr) == (positions != nullptr))
    fail_at(body.mark, "global needs either 'tokens' or 'positions'", "for example {global: {tokens: 4}}");
  if (tokens) return std::make_shared<GlobalPrefix>(as_integer(*tokens, "global.tokens", 1, kMaxLength));
  return std::make_shared<GlobalPositions>(read_positions(*positions), positions->mark);
}

}  // namespace filigree
