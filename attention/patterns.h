// The kinds of patterns: how the YAML of each is read, and what is made of it.
//
// A fixed pattern is a struct with its settings and its rule, and its entry in the table, both in
// patterns.cpp. Reading, messages, `filigree explain`, sweeps and the reference work from these alone.
// algebra.cpp has the kinds that are made of patterns, block_pattern.cpp `block`, and learned/ has the
// learned ones. A pattern's YAML is read once, into a PatternSpec, which a Config holds; the patterns of a
// model's layers are made from that.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "attention/pattern_spec.h"
#include "core/fields.h"

namespace filigree {

// What a pattern's YAML stands in, and what a pattern is made for.
struct PatternNesting {
  bool in_heads = false, in_layers = false;
};
struct PatternPlace {
  int layer = 0, n_layers = 1, n_heads = 1;
};

struct PatternKind {
  std::string_view name;
  std::string_view meaning;  // the rule, as `explain` prints it
  // The key that a sweep sets where the config gives neither it nor the other one.
  std::string_view fitted = {}, fitted_unless = {};
  std::string_view example = {};
  // Where it is a list of {KEY: .., pattern: ..}, the key: for which heads or layers an entry's pattern is.
  std::string_view share = {};
  void (*fields)(Fields& f) = nullptr;  // each setting with its default; null: it is made of patterns
  void (*read)(const YamlNode& body, const PatternNesting& nesting, PatternSpec& spec) = nullptr;
  PatternPtr (*make)(const PatternSpec& spec, const PatternPlace& place) = nullptr;  // unless `read` did
};

const std::deque<PatternKind>& pattern_kinds();
const PatternKind* find_pattern_kind(std::string_view name);  // null if there is none
// Adds a pattern to those that come with filigree, before any YAML that names it is read.
void add_pattern(PatternKind kind);

std::vector<PatternKind> fixed_kinds();
PatternKind block_kind();
PatternKind learned_layout_kind();
PatternKind block_topk_kind();
PatternKind learned_span_kind();
std::vector<PatternKind> algebra_kinds();

// --- for the files of kinds ---

// Of patterns that are made of others.
PatternSpec read_part(const YamlNode& node, const PatternNesting& nesting);
PatternPtr make_part(const PatternSpec& spec, const PatternPlace& place);

// Reads `Settings`, which describe themselves by fields(f) and may refuse by check(map) what does not fit
// together.
template <class Settings>
Settings read_settings(const YamlNode& body, PatternSpec& spec) {
  MapReader map(body, std::string(spec.kind->name));
  FieldReader reader(map);
  Settings settings;
  settings.fields(reader);
  reader.done();
  if constexpr (requires { settings.check(map); }) settings.check(map);
  FieldPrinter printer;
  settings.fields(printer);
  spec.settings = printer.take();
  return settings;
}

// The kind of a pattern Made(Settings), of which the name and what people read are given.
template <class Settings, class Made>
PatternKind kind_of(PatternKind kind) {
  kind.fields = [](Fields& f) { Settings().fields(f); };
  kind.read = [](const YamlNode& body, const PatternNesting&, PatternSpec& spec) {
    spec.made = std::make_shared<Made>(read_settings<Settings>(body, spec));
  };
  return kind;
}

// The row of one query, to which a rule adds its keys in ascending order; those from g.n on are cut off.
struct PatternRow {
  const Geometry& g;
  int head;
  std::int64_t i;
  Intervals& keys;

  std::int64_t end() const { return g.causal ? i + 1 : g.n; }  // of the keys that causality allows
  void add(std::int64_t begin, std::int64_t end) { append_interval(keys, begin, end); }
};

// A fixed pattern: Rule has row(PatternRow&) beside its settings. Where it has `per_head`, that decides
// whether heads differ; validate(g) refuses a length.
template <class Rule>
class FixedPattern final : public Pattern {
 public:
  explicit FixedPattern(Rule rule) : rule_(std::move(rule)) {}

  void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const override {
    out.clear();
    PatternRow row{g, head_class(head), i, out};
    rule_.row(row);
    clip(out, g.n);
  }
  int head_class([[maybe_unused]] int head) const override {
    if constexpr (requires { rule_.per_head; })
      return rule_.per_head ? head : 0;
    else
      return 0;
  }
  void validate([[maybe_unused]] const Geometry& g, int) const override {
    if constexpr (requires { rule_.validate(g); }) rule_.validate(g);
  }

 private:
  Rule rule_;
};

template <class Rule>
PatternKind fixed_kind(PatternKind kind) {
  return kind_of<Rule, FixedPattern<Rule>>(kind);
}

// The range of a number of tokens or blocks.
inline Range counts_from(int min) {
  return between(min, static_cast<double>(kMaxLength));
}

}  // namespace filigree
