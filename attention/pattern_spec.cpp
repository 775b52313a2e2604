// From YAML to patterns.
#include <set>

#include "attention/patterns.h"

namespace filigree {
namespace {

constexpr const char* kFit = "fit";

std::deque<PatternKind>& kinds() {
  static std::deque<PatternKind> all = [] {
    std::deque<PatternKind> list;
    const std::vector<PatternKind> learned = {learned_layout_kind(), block_topk_kind(), learned_span_kind()};
    for (const auto& some : {fixed_kinds(), learned, algebra_kinds()})
      list.insert(list.end(), some.begin(), some.end());
    return list;
  }();
  return all;
}

bool is_fit(const YamlNode& node) {
  return node.is_scalar() && !node.quoted && node.scalar == kFit;
}

}  // namespace

// --- kinds ---

const std::deque<PatternKind>& pattern_kinds() {
  return kinds();
}

void add_pattern(PatternKind kind) {
  check(find_pattern_kind(kind.name) == nullptr, "a pattern of this name is there already");
  kinds().push_back(std::move(kind));
}

const PatternKind* find_pattern_kind(std::string_view name) {
  const auto found = std::ranges::find(kinds(), name, &PatternKind::name);
  return found == kinds().end() ? nullptr : &*found;
}

std::vector<std::string> pattern_names() {
  std::vector<std::string> names;
  for (const PatternKind& kind : kinds()) names.emplace_back(kind.name);
  return names;
}

// --- a pattern as its YAML says it ---

PatternSpec read_part(const YamlNode& node, const PatternNesting& nesting) {
  if (!node.is_scalar() && (!node.is_map() || node.entries.size() != 1))
    fail_at(node.mark, "a pattern is a map with one key, its name", "for example {local: {window: 64}}");
  YamlNode defaults = YamlNode::make_map();  // of a name alone
  defaults.mark = node.mark;
  const YamlNode& name = node.is_scalar() ? node : node.entries.front().first;
  const YamlNode& body = node.is_scalar() ? defaults : node.entries.front().second;
  PatternSpec spec;
  spec.kind = find_pattern_kind(name.scalar);
  if (!spec.kind) {
    const std::string near = nearest(name.scalar, pattern_names());
    fail_at(name.mark, fmt::format("unknown pattern '{}'", name.scalar),
            near.empty() ? fmt::format("known patterns: {}", fmt::join(pattern_names(), ", "))
                         : fmt::format("did you mean '{}'?", near));
  }
  spec.written = node;
  spec.mark = body.mark;
  spec.kind->read(body, nesting, spec);
  return spec;
}

PatternSpec read_pattern(const YamlNode& node) {
  return read_part(node, {});
}

std::string_view PatternSpec::name() const {
  return kind->name;
}

std::string to_yaml(const PatternSpec& spec) {
  return to_yaml(spec.written);
}

bool operator==(const PatternSpec& a, const PatternSpec& b) {
  return a.written == b.written;
}

bool names_kind(const PatternSpec& spec, std::string_view kind) {
  return spec.name() == kind ||
         std::ranges::any_of(spec.parts, [&](const auto& part) { return names_kind(part, kind); });
}

bool learns(const PatternSpec& spec) {
  return (spec.made && spec.made->learned(0)) || std::ranges::any_of(spec.parts, learns);
}

std::vector<PatternSpec::NamedLayout> named_layouts(const PatternSpec& spec) {
  std::vector<PatternSpec::NamedLayout> named;
  if (spec.layout) named.push_back(*spec.layout);
  for (const PatternSpec& part : spec.parts) {
    const auto inner = named_layouts(part);
    named.insert(named.end(), inner.begin(), inner.end());
  }
  return named;
}

// --- patterns ---

PatternPtr make_part(const PatternSpec& spec, const PatternPlace& place) {
  check(spec.kind != nullptr, "a pattern was made before it was read");
  return spec.made ? spec.made : spec.kind->make(spec, place);
}

PatternPtr make_pattern(const PatternSpec& spec, int layer, int n_layers, int n_heads) {
  check(0 <= layer && layer < n_layers && n_heads >= 1, "make_pattern was given a layer or head count");
  return make_part(spec, {.layer = layer, .n_layers = n_layers, .n_heads = n_heads});
}

std::vector<PatternPtr> make_layer_patterns(const PatternSpec& spec, int n_layers, int n_heads) {
  std::vector<PatternPtr> patterns = {make_pattern(spec, 0, n_layers, n_heads)};
  const bool differ = names_kind(spec, "layers");
  for (int layer = 1; layer < n_layers; ++layer)
    patterns.push_back(differ ? make_pattern(spec, layer, n_layers, n_heads) : patterns.front());
  return patterns;
}

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

// --- free parameters ---

std::optional<std::string> free_parameter(const YamlNode& pattern) {
  if (is_fit(pattern)) return "";
  for (const auto& [key, value] : pattern.entries)
    if (const auto inner = free_parameter(value)) return inner->empty() ? key.scalar : *inner;
  for (const YamlNode& item : pattern.items)
    if (const auto inner = free_parameter(item)) return inner;
  return std::nullopt;
}

YamlNode with_parameter(const YamlNode& pattern, std::int64_t value) {
  YamlNode out = pattern;
  if (is_fit(pattern)) out.scalar = std::to_string(value);
  for (YamlNode& item : out.items) item = with_parameter(item, value);
  for (auto& [key, entry] : out.entries) entry = with_parameter(entry, value);
  return out;
}

YamlNode with_default_parameter(const YamlNode& pattern) {
  const bool bare = pattern.is_scalar();  // a name alone
  if (free_parameter(pattern) || (!bare && (!pattern.is_map() || pattern.entries.size() != 1)))
    return pattern;
  const std::string& name = bare ? pattern.scalar : pattern.entries.front().first.scalar;
  const PatternKind* kind = find_pattern_kind(name);
  if (!kind || kind->fitted.empty()) return pattern;
  YamlNode body = bare ? YamlNode::make_map() : pattern.entries.front().second;
  if (body.is_null()) body.kind = YamlNode::Kind::map;
  if (!body.is_map() || body.find(kind->fitted) || body.find(kind->fitted_unless)) return pattern;
  YamlNode value;
  value.kind = YamlNode::Kind::scalar;
  value.scalar = kFit;
  body.mark = value.mark = pattern.mark;
  body.add(kind->fitted, value);
  body.entries.back().first.mark = pattern.mark;
  YamlNode out = YamlNode::make_map();
  out.add(name, std::move(body));
  out.mark = out.entries.front().first.mark = pattern.mark;
  return out;
}

}  // namespace filigree
