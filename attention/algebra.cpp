// Patterns made of patterns: union, intersect, minus, and the choice by head and by layer.
#include <charconv>

#include "attention/patterns.h"

namespace filigree {
namespace {

// The class of each head: the first head that is like it.
template <class Alike>
std::vector<int> classes_of_heads(int n_heads, const Alike& alike) {
  std::vector<int> classes;
  for (int head = 0; head < n_heads; ++head) {
    int first = 0;
    while (!alike(first, head)) ++first;
    classes.push_back(first);
  }
  return classes;
}

using Operation = void (*)(const Intervals&, const Intervals&, Intervals&);

// The first pattern's row, with the others' rows applied one after another. Heads are alike where all
// patterns treat them alike.
class Combined final : public Pattern {
 public:
  Combined(Operation operation, std::vector<PatternPtr> patterns, int n_heads)
      : operation_(operation),
        patterns_(std::move(patterns)),
        classes_(classes_of_heads(n_heads, [this](int a, int b) {
          return std::ranges::all_of(
              patterns_, [&](const PatternPtr& p) { return p->head_class(a) == p->head_class(b); });
        })) {}

  void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const override {
    patterns_.front()->row(g, head, i, out);
    Intervals other, result;
    for (std::size_t p = 1; p < patterns_.size(); ++p) {
      patterns_[p]->row(g, head, i, other);
      operation_(out, other, result);
      out.swap(result);
    }
  }
  int head_class(int head) const override { return classes_.at(head); }
  void validate(const Geometry& g, int n_heads) const override {
    for (const PatternPtr& pattern : patterns_) pattern->validate(g, n_heads);
  }

 private:
  Operation operation_;
  std::vector<PatternPtr> patterns_;
  std::vector<int> classes_;
};

class ByHead final : public Pattern {
 public:
  explicit ByHead(std::vector<PatternPtr> of_head)
      : of_head_(std::move(of_head)),
        classes_(classes_of_heads(static_cast<int>(of_head_.size()), [this](int a, int b) {
          return of_head_[a] == of_head_[b] && of_head_[a]->head_class(a) == of_head_[b]->head_class(b);
        })) {}

  void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const override {
    of_head_.at(head)->row(g, head, i, out);
  }
  int head_class(int head) const override { return classes_.at(head); }
  const LearnedPattern* learned(int head) const override { return of_head_.at(head)->learned(head); }
  void validate(const Geometry& g, int n_heads) const override {
    for (std::size_t head = 0; head < of_head_.size(); ++head)
      if (head == 0 || of_head_[head] != of_head_[head - 1]) of_head_[head]->validate(g, n_heads);
  }

 private:
  std::vector<PatternPtr> of_head_;
  std::vector<int> classes_;
};

// The layers that an entry of `layers:` names: 2, 0-3, or a list of these.
std::vector<bool> named_layers(const YamlNode& node, int n_layers) {
  std::vector<bool> named(n_layers, false);
  const auto number = [](std::string_view text) {  // -1 if it is none
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool leading_zero = text.size() > 1 && text[0] == '0';
    return error != std::errc() || end != text.data() + text.size() || leading_zero ? -1 : value;
  };
  const auto add = [&](const YamlNode& item) {
    const std::string_view text = item.scalar;
    const auto dash = text.find('-');
    const int first = number(text.substr(0, dash));
    const int last = dash == std::string_view::npos ? first : number(text.substr(dash + 1));
    if (!item.is_scalar() || item.quoted || first < 0 || last < 0)
      fail_at(item.mark, "layers must be a layer, a range or a list of these",
              "for example 2, 0-3 or [0, 2-4]; layers count from 0");
    if (last < first) fail_at(item.mark, fmt::format("the range of layers {} runs backwards", text));
    if (last >= n_layers)
      fail_at(item.mark,
              fmt::format("there is no layer {}: the model has {}, 0 to {}", last, n_layers, n_layers - 1));
    std::fill(named.begin() + first, named.begin() + last + 1, true);
  };
  if (node.is_sequence() && node.items.empty()) fail_at(node.mark, "layers names no layer");
  if (!node.is_sequence()) add(node);
  for (const YamlNode& item : node.items) add(item);
  return named;
}

template <Operation operation>
PatternKind set_kind(PatternKind kind) {
  kind.read = [](const YamlNode& body, const PatternNesting& nesting, PatternSpec& spec) {
    const std::string_view own = spec.name();
    if (!body.is_sequence() || body.items.empty())
      fail_at(body.mark, fmt::format("{} must be a list of patterns", own),
              fmt::format("for example {{{}: [{{local: {{window: 64}}}}, {{global: {{tokens: 2}}}}]}}", own));
    for (const YamlNode& item : body.items) {
      spec.parts.push_back(read_part(item, nesting));
      if (learns(spec.parts.back()))
        fail_at(item.mark, fmt::format("a learned pattern cannot stand inside {}", own),
                "it may be the pattern of all heads, or stand inside heads or layers");
    }
    if (own == "minus" && spec.parts.size() != 2)
      fail_at(body.mark,
              fmt::format("minus takes two patterns, [from, what to leave out], not {}", spec.parts.size()));
  };
  kind.make = [](const PatternSpec& spec, const PatternPlace& place) -> PatternPtr {
    std::vector<PatternPtr> patterns;
    for (const PatternSpec& part : spec.parts) patterns.push_back(make_part(part, place));
    return std::make_shared<Combined>(operation, std::move(patterns), place.n_heads);
  };
  return kind;
}

// The entries of heads and layers: maps of the pattern and of what it is for, `count` or `layers`.
void read_shares(const YamlNode& body, const PatternNesting& nesting, PatternSpec& spec) {
  const std::string_view own = spec.name(), key = spec.kind->share;
  if (own == "heads" ? nesting.in_heads : nesting.in_layers)
    fail_at(body.mark, fmt::format("{0} cannot stand inside {0}", own));
  if (!body.is_sequence() || body.items.empty())
    fail_at(body.mark, fmt::format("{} must be a list of {{{}: .., pattern: ..}}", own, key));
  PatternNesting inner = nesting;
  (own == "heads" ? inner.in_heads : inner.in_layers) = true;
  for (const YamlNode& item : body.items) {
    MapReader map(item, std::string(own));
    const YamlNode& share = map.at(key);
    const YamlNode& pattern = map.at("pattern");
    map.done();
    spec.parts.push_back(read_part(pattern, inner));
    spec.parts.back().share = share;
  }
}

PatternPtr make_heads(const PatternSpec& spec, const PatternPlace& place) {
  std::vector<PatternPtr> of_head;
  for (const PatternSpec& part : spec.parts)
    of_head.insert(of_head.end(), as_integer(part.share, "heads.count", 1, place.n_heads),
                   make_part(part, place));
  if (std::ssize(of_head) != place.n_heads)
    fail_at(spec.mark, fmt::format("the counts of heads add up to {}, but the model has {} heads",
                                   of_head.size(), place.n_heads));
  return std::make_shared<ByHead>(std::move(of_head));
}

// Every entry is made, so that a mistake in one of them shows whatever the layer.
PatternPtr make_layers(const PatternSpec& spec, const PatternPlace& place) {
  std::vector<bool> covered(place.n_layers, false);
  PatternPtr chosen;
  for (const PatternSpec& part : spec.parts) {
    const std::vector<bool> named = named_layers(part.share, place.n_layers);
    PatternPtr pattern = make_part(part, place);
    if (named[place.layer]) chosen = std::move(pattern);
    for (int layer = 0; layer < place.n_layers; ++layer)
      if (named[layer]) covered[layer] = true;
  }
  const auto missing = std::ranges::find(covered, false);
  if (missing != covered.end())
    fail_at(spec.mark, fmt::format("layers has no pattern for layer {}", missing - covered.begin()));
  return chosen;
}

}  // namespace

std::vector<PatternKind> algebra_kinds() {
  return {
      set_kind<unite>({.name = "union",
                       .meaning = "any of the listed patterns",
                       .example = "{union: [{local: {window: 64}}, {global: {tokens: 2}}]}"}),
      set_kind<intersect>({.name = "intersect",
                           .meaning = "all of the listed patterns",
                           .example = "{intersect: [{local: {window: 256}}, {strided: {stride: 4}}]}"}),
      set_kind<subtract>({.name = "minus",
                          .meaning = "the first pattern without the second",
                          .example = "{minus: [full, {local: {window: 64}}]}"}),
      {.name = "heads",
       .meaning = "by head",
       .example = "{heads: [{count: 2, pattern: full}, {count: 6, pattern: {local: {window: 64}}}]}",
       .share = "count",
       .read = read_shares,
       .make = make_heads},
      {.name = "layers",
       .meaning = "by layer; a later entry wins",
       .example =
           "{layers: [{layers: 0-5, pattern: {local: {window: 64}}}, {layers: [2, 5], pattern: full}]}",
       .share = "layers",
       .read = read_shares,
       .make = make_layers},
  };
}

}  // namespace filigree
