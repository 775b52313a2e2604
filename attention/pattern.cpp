// The algebra of patterns: union, intersect, minus, and the choice by head and by layer.
#include "attention/pattern.h"

#include <charconv>
#include <optional>
#include <set>

#include "attention/intervals.h"
#include "attention/registry.h"

namespace filigree {
namespace {

// Heads are alike where all `children` treat them alike. The class of a head is the first head like it.
std::vector<int> common_classes(const std::vector<PatternPtr>& children, int n_heads) {
  std::vector<int> classes;
  for (int head = 0; head < n_heads; ++head) {
    const auto like = [&](int other) {
      return std::all_of(children.begin(), children.end(), [&](const PatternPtr& child) {
        return child->head_class(other) == child->head_class(head);
      });
    };
    int first = 0;
    while (!like(first)) ++first;
    classes.push_back(first);
  }
  return classes;
}

// A pattern made of others.
class Composite : public Pattern {
 public:
  Composite(std::vector<PatternPtr> children, int n_heads)
      : children_(std::move(children)), classes_(common_classes(children_, n_heads)) {}

  int head_class(int head) const override { return classes_.at(head); }
  void validate(const Geometry& g, int n_heads) const override {
    for (const auto& child : children_) child->validate(g, n_heads);
  }

 protected:
  using Operation = void (*)(const Intervals&, const Intervals&, Intervals&);
  // The first child's row, with the others' rows applied one after another.
  void fold(Operation operation, const Geometry& g, int head, std::int64_t i, Intervals& out) const {
    children_.front()->row(g, head, i, out);
    Intervals other, result;
    for (std::size_t c = 1; c < children_.size(); ++c) {
      children_[c]->row(g, head, i, other);
      operation(out, other, result);
      out.swap(result);
    }
  }

  std::vector<PatternPtr> children_;

 private:
  std::vector<int> classes_;
};

class Union : public Composite {
 public:
  using Composite::Composite;
  bool allows(const Geometry& g, int head, std::int64_t i, std::int64_t j) const override {
    return std::any_of(children_.begin(), children_.end(),
                       [&](const PatternPtr& child) { return child->allows(g, head, i, j); });
  }
  void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const override {
    fold(unite, g, head, i, out);
  }
};

class Intersect : public Composite {
 public:
  using Composite::Composite;
  bool allows(const Geometry& g, int head, std::int64_t i, std::int64_t j) const override {
    return std::all_of(children_.begin(), children_.end(),
                       [&](const PatternPtr& child) { return child->allows(g, head, i, j); });
  }
  void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const override {
    fold(intersect, g, head, i, out);
  }
};

class Minus : public Composite {
 public:
  using Composite::Composite;
  bool allows(const Geometry& g, int head, std::int64_t i, std::int64_t j) const override {
    return children_[0]->allows(g, head, i, j) && !children_[1]->allows(g, head, i, j);
  }
  void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const override {
    fold(subtract, g, head, i, out);
  }
};

class Heads : public Pattern {
 public:
  struct Group {
    int end;  // one past its last head
    PatternPtr pattern;
  };
  explicit Heads(std::vector<Group> groups) : groups_(std::move(groups)) {
    for (int head = 0; head < groups_.back().end; ++head) classes_.push_back(first_like(head));
  }

  bool allows(const Geometry& g, int head, std::int64_t i, std::int64_t j) const override {
    return group_of(head).pattern->allows(g, head, i, j);
  }
  void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const override {
    group_of(head).pattern->row(g, head, i, out);
  }
  int head_class(int head) const override { return classes_.at(head); }
  const LearnedPattern* learned(int head) const override { return group_of(head).pattern->learned(head); }
  void validate(const Geometry& g, int n_heads) const override {
    for (const auto& group : groups_) group.pattern->validate(g, n_heads);
  }

 private:
  const Group& group_of(int head) const {
    return *std::upper_bound(groups_.begin(), groups_.end(), head,
                             [](int h, const Group& group) { return h < group.end; });
  }
  int first_like(int head) const {
    const Group& own = group_of(head);
    int first = 0;
    while (&group_of(first) != &own || own.pattern->head_class(first) != own.pattern->head_class(head))
      ++first;
    return first;
  }

  std::vector<Group> groups_;  // in the order of heads
  std::vector<int> classes_;
};

std::vector<PatternPtr> read_children(const YamlNode& body, const PatternContext& context,
                                      std::string_view name) {
  if (!body.is_sequence() || body.items.empty())
    fail_at(body.mark, fmt::format("{} must be a list of patterns", name),
            fmt::format("for example {{{}: [{{local: {{window: 64}}}}, {{global: {{tokens: 2}}}}]}}", name));
  std::vector<PatternPtr> children;
  for (const auto& item : body.items) {
    children.push_back(make_nested(item, context));
    for (int head = 0; head < context.n_heads; ++head)
      if (children.back()->learned(head))
        fail_at(item.mark, fmt::format("a learned pattern cannot stand inside {}", name),
                "it may be the pattern of all heads, or stand inside heads or layers");
  }
  return children;
}

// Which layers an entry of `layers:` names: 2, 0-3, or a list of these.
class LayerSet {
 public:
  LayerSet(const YamlNode& node, int n_layers) : named_(n_layers, false) {
    if (node.is_sequence() && node.items.empty()) fail_at(node.mark, "layers names no layer");
    if (!node.is_sequence()) add(node);
    for (const auto& item : node.items) add(item);
  }
  bool has(int layer) const { return named_[layer]; }

 private:
  void add(const YamlNode& node) {
    const std::string_view text = node.scalar;
    const auto dash = text.find('-');
    const auto first = number(text.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : number(text.substr(dash + 1));
    if (!node.is_scalar() || node.quoted || !first || !last)
      fail_at(node.mark, "layers must be a layer, a range or a list of these",
              "for example 2, 0-3 or [0, 2-4]; layers count from 0");
    if (*last < *first) fail_at(node.mark, fmt::format("the range of layers {} runs backwards", text));
    const auto n_layers = static_cast<int>(named_.size());
    if (*last >= n_layers)
      fail_at(node.mark,
              fmt::format("there is no layer {}: the model has {}, 0 to {}", *last, n_layers, n_layers - 1));
    std::fill(named_.begin() + *first, named_.begin() + *last + 1, true);
  }

  static std::optional<int> number(std::string_view text) {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool leading_zero = text.size() > 1 && text[0] == '0';
    if (error != std::errc() || end != text.data() + text.size() || value < 0 || leading_zero) return {};
    return value;
  }

  std::vector<bool> named_;
};

}  // namespace

void require_pairs(const Pattern& pattern, const Geometry& g, int n_heads, const Mark& mark) {
  std::set<int> seen;  // head classes
  Intervals keys;
  for (int head = 0; head < n_heads; ++head) {
    if (!seen.insert(pattern.head_class(head)).second) continue;
    const auto sees = [&](std::int64_t i) {
      pattern.row(g, head, i, keys);
      return !keys.empty() && keys.front().begin < (g.causal ? i + 1 : g.n);
    };
    std::int64_t i = g.n;  // from the last query, which sees most
    while (i > 0 && !sees(i - 1)) --i;
    if (i == 0)
      fail_at(
          mark,
          fmt::format("the pattern of head {} allows no pair of its {} tokens{}: nothing would be computed",
                      head, g.n, g.causal ? ", where no query sees a later key" : ""),
          "filigree explain draws a pattern");
  }
}

PatternPtr make_union(const YamlNode& body, const PatternContext& context) {
  return std::make_shared<Union>(read_children(body, context, "union"), context.n_heads);
}

PatternPtr make_intersect(const YamlNode& body, const PatternContext& context) {
  return std::make_shared<Intersect>(read_children(body, context, "intersect"), context.n_heads);
}

PatternPtr make_minus(const YamlNode& body, const PatternContext& context) {
  auto children = read_children(body, context, "minus");
  if (children.size() != 2)
    fail_at(body.mark,
            fmt::format("minus takes two patterns, [from, what to leave out], not {}", children.size()));
  return std::make_shared<Minus>(std::move(children), context.n_heads);
}

PatternPtr make_heads(const YamlNode& body, const PatternContext& context) {
  if (context.inside_heads) fail_at(body.mark, "heads cannot stand inside heads");
  if (!body.is_sequence() || body.items.empty())
    fail_at(body.mark, "heads must be a list of {count: .., pattern: ..}");
  PatternContext inner = context;
  inner.inside_heads = true;
  std::vector<Heads::Group> groups;
  std::int64_t total = 0;
  for (const auto& item : body.items) {
    MapReader map(item, "heads");
    total += map.integer("count", 1, context.n_heads);
    const YamlNode& pattern = map.at("pattern");
    map.done();
    groups.push_back({static_cast<int>(total), make_nested(pattern, inner)});
  }
  if (total != context.n_heads)
    fail_at(body.mark, fmt::format("the counts of heads add up to {}, but the model has {} heads", total,
                                   context.n_heads));
  return std::make_shared<Heads>(std::move(groups));
}

// Every entry is read, so that a mistake in one of them shows whatever the layer.
PatternPtr make_layers(const YamlNode& body, const PatternContext& context) {
  if (context.inside_layers) fail_at(body.mark, "layers cannot stand inside layers");
  if (!body.is_sequence() || body.items.empty())
    fail_at(body.mark, "layers must be a list of {layers: .., pattern: ..}");
  PatternContext inner = context;
  inner.inside_layers = true;
  std::vector<bool> covered(context.n_layers, false);
  PatternPtr chosen;
  for (const auto& item : body.items) {
    MapReader map(item, "layers");
    const LayerSet named(map.at("layers"), context.n_layers);
    const YamlNode& node = map.at("pattern");
    map.done();
    auto pattern = make_nested(node, inner);
    if (named.has(context.layer)) chosen = std::move(pattern);
    for (int layer = 0; layer < context.n_layers; ++layer)
      if (named.has(layer)) covered[layer] = true;
  }
  const auto missing = std::find(covered.begin(), covered.end(), false);
  if (missing != covered.end())
    fail_at(body.mark, fmt::format("layers has no pattern for layer {}", missing - covered.begin()));
  return chosen;
}

}  // namespace filigree
