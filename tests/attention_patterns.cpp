// Patterns: their meaning against the formulas of the documentation, rows against predicates, seeded draws,
// and every mistake in the YAML.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>
#include <set>

#include "attention/explain/explain.h"
#include "attention/intervals.h"
#include "attention/patterns.h"
#include "attention/sampling.h"
#include "tests/attention_reference.h"
#include "tests/gradcheck.h"
#include "tests/pattern_meaning.h"
#include "tests/random_patterns.h"

namespace filigree {
namespace {

using test::allows;
using test::parse_pattern;

std::uint64_t fresh_seed() {
  return std::random_device{}();
}

// The keys of a row, clipped as the builder does; also checks that the intervals are well-formed.
std::set<std::int64_t> keys_of_row(const Pattern& pattern, const Geometry& g, int head, std::int64_t i) {
  Intervals row = {{-7, -3}};  // must be replaced
  pattern.row(g, head, i, row);
  for (std::size_t k = 0; k < row.size(); ++k) {
    EXPECT_LT(row[k].begin, row[k].end);
    EXPECT_GE(row[k].begin, k == 0 ? 0 : row[k - 1].end);
  }
  clip(row, g.causal ? i + 1 : g.n);
  std::set<std::int64_t> keys;
  for (const auto& interval : row)
    for (auto j = interval.begin; j < interval.end; ++j) keys.insert(j);
  return keys;
}

void expect_rows_agree(const Pattern& pattern, const std::string& yaml, const Geometry& g, int n_heads,
                       const std::string& what) {
  const test::Meaning meaning = test::meaning_of(parse_yaml(yaml, "test.yaml"));
  for (int head = 0; head < n_heads; ++head) {
    for (std::int64_t i = 0; i < g.n; ++i) {
      std::set<std::int64_t> expected;
      for (std::int64_t j = 0; j < (g.causal ? i + 1 : g.n); ++j)
        if (meaning(g, head, i, j)) expected.insert(j);
      ASSERT_EQ(keys_of_row(pattern, g, head, i), expected)
          << what << " n=" << g.n << " causal=" << g.causal << " head=" << head << " i=" << i;
    }
  }
}

// --- meaning ---

struct Meaning {
  std::string yaml;
  std::function<bool(const Geometry&, std::int64_t, std::int64_t)> allows;
};

std::vector<Meaning> meanings(std::int64_t n) {
  std::vector<Meaning> all = {
      {"{full: {}}", [](auto&, auto, auto) { return true; }},
      {"{global: {tokens: 2}}", [](auto&, auto i, auto j) { return i < 2 || j < 2; }},
      {"{global: {positions: [0]}}", [](auto&, auto i, auto j) { return i == 0 || j == 0; }},
      {"{strided: {stride: 3}}", [](auto&, auto i, auto j) { return std::abs(i - j) % 3 == 0; }},
      {"{fixed: {stride: 5, summary: 2}}",
       [](auto&, auto i, auto j) { return i / 5 == j / 5 || j % 5 == 3 || j % 5 == 4; }},
      {"{block: {size: 1, pairs: [[0, 0]]}}", [](auto&, auto i, auto j) { return i == 0 && j == 0; }},
      // Without random blocks BigBird is plain arithmetic; one draw from one candidate is no lottery either.
      {"{bigbird: {block: 4, window: 3, global: 1, random: 0}}",
       [](auto&, auto i, auto j) { return std::abs(i / 4 - j / 4) <= 1 || i < 4 || j < 4; }},
      {"{union: [{strided: {stride: 3}}, {global: {tokens: 1}}]}",
       [](auto&, auto i, auto j) { return std::abs(i - j) % 3 == 0 || i == 0 || j == 0; }},
      {"{intersect: [{strided: {stride: 3}}, {strided: {stride: 2}}]}",
       [](auto&, auto i, auto j) { return std::abs(i - j) % 6 == 0; }},
      {"{minus: [{full: {}}, {strided: {stride: 2}}]}",
       [](auto&, auto i, auto j) { return std::abs(i - j) % 2 == 1; }},
  };
  for (const std::int64_t w : {std::int64_t{1}, std::int64_t{2}, std::int64_t{5}, n}) {
    for (const std::int64_t d : {1, 2, 3}) {
      all.push_back({fmt::format("{{local: {{window: {}, dilation: {}}}}}", w, d),
                     [w, d](const Geometry& g, auto i, auto j) {
                       // Straight from the table: the listed distances, one by one.
                       for (std::int64_t k = 0; k <= (g.causal ? w - 1 : w / 2); ++k)
                         if ((g.causal ? i - j : std::abs(i - j)) == k * d) return true;
                       return false;
                     }});
    }
    all.push_back(
        {fmt::format("{{longformer: {{window: {}, global: 1}}}}", w), [w](const Geometry& g, auto i, auto j) {
           const bool local = g.causal ? i >= j && i - j < w : std::abs(i - j) <= w / 2;
           return local || i == 0 || j == 0;
         }});
  }
  return all;
}

TEST(Patterns, MeanWhatTheTableSays) {
  for (const std::int64_t n : {1, 2, 7, 33, 50}) {
    for (const bool causal : {true, false}) {
      const Geometry g{n, causal, 16};
      for (const auto& meaning : meanings(n)) {
        const auto pattern = parse_pattern(meaning.yaml);
        for (std::int64_t i = 0; i < n; ++i)
          for (std::int64_t j = 0; j < (causal ? i + 1 : n); ++j)
            ASSERT_EQ(allows(*pattern, g, 0, i, j), meaning.allows(g, i, j))
                << meaning.yaml << " n=" << n << " causal=" << causal << " i=" << i << " j=" << j;
        expect_rows_agree(*pattern, meaning.yaml, g, 1, meaning.yaml);
      }
    }
  }
}

TEST(Patterns, CausalWindowCountsTheQueryItself) {
  const Geometry g{100, true, 16};
  for (const std::int64_t w : {1, 2, 64}) {
    const auto pattern = parse_pattern(fmt::format("{{local: {{window: {}}}}}", w));
    EXPECT_EQ(keys_of_row(*pattern, g, 0, 99).size(), static_cast<std::size_t>(w));
    EXPECT_EQ(*keys_of_row(*pattern, g, 0, 99).rbegin(), 99);
  }
}

TEST(Patterns, RowsAgreeWithPredicatesOnRandomTrees) {
  const auto seed = fresh_seed();
  RandomStream random(seed);
  for (int c = 0; c < 400; ++c) {
    const std::int64_t n = c % 20 == 0 ? 1 : random.range(1, 70);
    const int n_heads = static_cast<int>(random.range(1, 4));
    const std::string text = test::random_pattern(random, n, n_heads, 3);
    const auto pattern = parse_pattern(text, n_heads);
    const Geometry g{n, random.range(0, 1) == 1, 16};
    pattern->validate(g, n_heads);
    expect_rows_agree(*pattern, text, g, n_heads, fmt::format("seed {} case {}: {}", seed, c, text));
    if (HasFatalFailure()) return;
  }
}

TEST(Patterns, HeadsOfOneClassAllowTheSame) {
  const auto seed = fresh_seed();
  RandomStream random(seed);
  for (int c = 0; c < 100; ++c) {
    const std::string text = test::random_pattern(random, 40, 4, 3);
    const auto pattern = parse_pattern(text, 4);
    const Geometry g{40, true, 16};
    for (int head = 1; head < 4; ++head) {
      for (int other = 0; other < head; ++other) {
        if (pattern->head_class(head) != pattern->head_class(other)) continue;
        for (std::int64_t i = 0; i < g.n; ++i)
          ASSERT_EQ(keys_of_row(*pattern, g, head, i), keys_of_row(*pattern, g, other, i))
              << "seed " << seed << ": " << text;
      }
    }
  }
}

// --- draws ---

TEST(Draws, ExactlyAsManyAsAskedWithoutReplacement) {
  const auto seed = fresh_seed();
  RandomStream random(seed);
  std::vector<std::int64_t> drawn;
  for (int c = 0; c < 2000; ++c) {
    const auto population = random.range(0, 60), count = random.range(0, 60);
    sample({seed, 0, static_cast<std::uint32_t>(c)}, population, count, drawn);
    ASSERT_EQ(static_cast<std::int64_t>(drawn.size()), std::min(population, count)) << "seed " << seed;
    for (std::size_t k = 0; k < drawn.size(); ++k) {
      ASSERT_GE(drawn[k], k == 0 ? 0 : drawn[k - 1] + 1);
      ASSERT_LT(drawn[k], population);
    }
  }
}

// Fixed for ever: other devices and later releases must draw the same.
TEST(Draws, GoldenValues) {
  std::vector<std::int64_t> drawn;
  sample({0, 0, 0}, 100, 5, drawn);
  EXPECT_EQ(drawn, (std::vector<std::int64_t>{3, 31, 35, 58, 84}));
  sample({42, 3, 1000}, 1001, 6, drawn);
  EXPECT_EQ(drawn, (std::vector<std::int64_t>{349, 461, 493, 691, 692, 840}));
  sample({0x123456789abcdef0u, 1, 7}, std::int64_t{1} << 30, 3, drawn);
  EXPECT_EQ(drawn, (std::vector<std::int64_t>{54463658, 92966056, 111867596}));
  sample({1, 0, 5}, 8, 7, drawn);
  EXPECT_EQ(drawn, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7}));
}

TEST(Draws, GoldenRowsOfPatterns) {
  using Keys = std::set<std::int64_t>;
  const auto random = parse_pattern("{random: {keys: 4, seed: 7, per_head: true}}", 2);
  EXPECT_EQ(keys_of_row(*random, {512, true, 64}, 0, 300), (Keys{84, 91, 241, 252}));
  EXPECT_EQ(keys_of_row(*random, {512, true, 64}, 1, 300), (Keys{124, 209, 232, 236}));
  const auto bigbird = parse_pattern("{bigbird: {block: 1, window: 1, global: 1, random: 3, seed: 5}}");
  EXPECT_EQ(keys_of_row(*bigbird, {64, true, 64}, 0, 40), (Keys{0, 21, 24, 25, 40}));
  EXPECT_EQ(keys_of_row(*bigbird, {64, false, 64}, 0, 40), (Keys{0, 33, 38, 40, 41}));
}

TEST(Draws, RoughlyUniform) {
  constexpr int kPopulation = 20, kCount = 7, kRows = 20000;
  std::vector<std::int64_t> drawn;
  std::vector<double> hits(kPopulation, 0.0);
  for (std::uint32_t row = 0; row < kRows; ++row) {
    sample({11, 0, row}, kPopulation, kCount, drawn);
    for (auto d : drawn) ++hits[d];
  }
  const double expected = double{kRows} * kCount / kPopulation;
  double chi_square = 0;
  for (double h : hits) chi_square += (h - expected) * (h - expected) / expected;
  EXPECT_LT(chi_square, 50);  // 19 degrees of freedom; without replacement it comes out smaller still
}

TEST(Draws, SeedRowAndHeadAllMatter) {
  std::set<std::vector<std::int64_t>> seen;
  std::vector<std::int64_t> drawn;
  for (std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32})
    for (std::uint32_t head : {0u, 1u})
      for (std::uint32_t row : {0u, 1u, 2u}) {
        sample({seed, head, row}, 1 << 20, 8, drawn);
        seen.insert(drawn);
      }
  EXPECT_EQ(seen.size(), 18u);
}

TEST(Draws, RandomKeysHonourCausality) {
  const auto pattern = parse_pattern("{random: {keys: 6, seed: 3}}", 4);
  for (std::int64_t i = 0; i < 64; ++i) {
    const auto keys = keys_of_row(*pattern, {64, true, 16}, 0, i);
    EXPECT_EQ(static_cast<std::int64_t>(keys.size()), std::min<std::int64_t>(6, i + 1));
    EXPECT_EQ(keys_of_row(*pattern, {64, false, 16}, 0, i).size(), 6u);
    EXPECT_EQ(keys, keys_of_row(*pattern, {64, true, 16}, 3, i));   // one draw for all heads
    EXPECT_EQ(keys, keys_of_row(*pattern, {200, true, 32}, 0, i));  // and for every length, when causal
  }
}

TEST(Draws, PerHeadDrawsDiffer) {
  const auto pattern = parse_pattern("{random: {keys: 6, seed: 3, per_head: true}}", 4);
  const Geometry g{200, true, 16};
  EXPECT_NE(pattern->head_class(0), pattern->head_class(1));
  EXPECT_NE(keys_of_row(*pattern, g, 0, 150), keys_of_row(*pattern, g, 1, 150));
}

TEST(Draws, BigBirdDrawsBlocksNotYetAllowed) {
  const auto with = parse_pattern("{bigbird: {block: 2, window: 3, global: 2, random: 3, seed: 9}}");
  const auto without = parse_pattern("{bigbird: {block: 2, window: 3, global: 2, random: 0}}");
  for (const bool causal : {true, false}) {
    const Geometry g{81, causal, 16};
    for (std::int64_t i = 0; i < g.n; ++i) {
      std::set<std::int64_t> drawn, free;  // blocks
      for (std::int64_t j = 0; j < (causal ? i / 2 * 2 + 2 : g.n); ++j) {
        if (allows(*without, g, 0, i, j)) {
          EXPECT_TRUE(allows(*with, g, 0, i, j));
          continue;
        }
        free.insert(j / 2);
        if (allows(*with, g, 0, i, j)) drawn.insert(j / 2);
      }
      EXPECT_EQ(drawn.size(), std::min<std::size_t>(3, free.size())) << "causal=" << causal << " i=" << i;
    }
  }
}

TEST(Draws, RandomBlocksAreWholeBlocks) {
  const auto pattern = parse_pattern("{random_blocks: {block: 8, blocks: 2, seed: 1}}");
  const Geometry g{100, false, 16};
  for (std::int64_t i = 0; i < g.n; ++i) {
    std::set<std::int64_t> blocks;
    for (auto j : keys_of_row(*pattern, g, 0, i)) blocks.insert(j / 8);
    EXPECT_EQ(blocks.size(), 2u);
    EXPECT_EQ(keys_of_row(*pattern, g, 0, i), keys_of_row(*pattern, g, 0, i / 8 * 8));
  }
}

// --- choice by layer and head ---

TEST(Patterns, ANameAloneMeansTheDefaults) {
  const Geometry g{300, true, 32};
  for (const char* name : {"full", "bigbird"}) {
    const auto brief = parse_pattern(name, 1, 0, 1),
               whole = parse_pattern(fmt::format("{{{}: {{}}}}", name), 1, 0, 1);
    EXPECT_TRUE(build_layout(*brief, g, 1) == build_layout(*whole, g, 1)) << name;
  }
}

TEST(PatternLists, LaterLayerEntryWins) {
  const std::string text =
      "{layers: [{layers: 0-3, pattern: {full: {}}}, {layers: [1, 3], pattern: {local: {window: 1}}},"
      " {layers: 2, pattern: {strided: {stride: 2}}}]}";
  const Geometry g{10, true, 16};
  const std::size_t expected[] = {10, 1, 5, 1};
  for (int layer = 0; layer < 4; ++layer) {
    const auto pattern = parse_pattern(text, 1, layer, 4);
    EXPECT_EQ(keys_of_row(*pattern, g, 0, 9).size(), expected[layer]) << "layer " << layer;
  }
}

TEST(PatternLists, HeadsTakeTheirGroup) {
  const auto pattern = parse_pattern(
      "{heads: [{count: 1, pattern: {local: {window: 1}}}, {count: 2, pattern: {full: {}}}]}", 3);
  const Geometry g{10, true, 16};
  EXPECT_EQ(keys_of_row(*pattern, g, 0, 9).size(), 1u);
  EXPECT_EQ(keys_of_row(*pattern, g, 1, 9).size(), 10u);
  EXPECT_EQ(keys_of_row(*pattern, g, 2, 9).size(), 10u);
  EXPECT_EQ(pattern->head_class(1), pattern->head_class(2));
  EXPECT_NE(pattern->head_class(0), pattern->head_class(1));
}

TEST(PatternLists, LayersMayStandBelowHeads) {
  const std::string text =
      "{heads: [{count: 1, pattern: {layers: [{layers: 0, pattern: {full: {}}}, {layers: 1, pattern: "
      "{local: {window: 1}}}]}}, {count: 1, pattern: {full: {}}}]}";
  const Geometry g{10, true, 16};
  EXPECT_EQ(keys_of_row(*parse_pattern(text, 2, 0, 2), g, 0, 9).size(), 10u);
  EXPECT_EQ(keys_of_row(*parse_pattern(text, 2, 1, 2), g, 0, 9).size(), 1u);
}

TEST(PatternLists, LayersAreFoundWhereverTheyStand) {
  const auto distinct = [](const std::string& text) {
    const auto layers = make_layer_patterns(read_pattern(parse_yaml(text, "test.yaml")), 3, 2);
    return std::set<PatternPtr>(layers.begin(), layers.end()).size();
  };
  const std::string by_layer =
      "{layers: [{layers: 0-1, pattern: {full: {}}}, {layers: 2, pattern: {local: {window: 1}}}]}";
  EXPECT_EQ(distinct("{full: {}}"), 1u);
  EXPECT_EQ(distinct(by_layer), 2u) << "an entry's own pattern is one object";
  EXPECT_EQ(distinct("{heads: [{count: 2, pattern: {union: [" + by_layer + "]}}]}"), 3u);
}

// --- the table ---

// The keys of the blocks before the query's own, and the query itself.
struct Stairs {
  std::int64_t step = 0, landing = 0;
  void fields(Fields& f) {
    f.integer("step", required(step), counts_from(1), "s, tokens of a block");
    f.integer("landing", landing, counts_from(0), "keys that every query sees");
  }
  void row(PatternRow& row) const {
    row.add(0, std::max(landing, row.i / step * step));
    row.add(row.i, row.i + 1);
  }
};

std::string refusal(const std::string& yaml) {
  try {
    parse_pattern(yaml);
  } catch (const Error& e) {
    return fmt::format("{} / {}", e.what(), e.hint());
  }
  return "accepted";
}

TEST(PatternTable, ARuleAndItsEntryAreAllThatAPatternNeeds) {
  EXPECT_NE(refusal("{stairs: {step: 4}}").find("unknown pattern 'stairs'"), std::string::npos);
  add_pattern(fixed_kind<Stairs>({"stairs", "j < s floor(i/s), or j = i", "step"}));

  // Reading and its messages.
  EXPECT_EQ(pattern_names().back(), "stairs");
  const PatternSpec spec = read_pattern(parse_yaml("{stairs: {step: 4}}", "test.yaml"));
  EXPECT_EQ(to_yaml(spec), "stairs: {step: 4}\n");
  EXPECT_EQ(one_line(spec.settings), "{step: 4, landing: 0}");
  EXPECT_EQ(refusal("stairs"), "test.yaml:1:1: stairs.step is missing / add 'step:'");
  EXPECT_EQ(refusal("{stairs: {stp: 4}}"), "test.yaml:1:11: unknown key 'stairs.stp' / did you mean 'step'?");
  EXPECT_EQ(refusal("{stairs: {step: 0}}"),
            "test.yaml:1:17: stairs.step must be between 1 and 1073741824, not '0' / ");
  EXPECT_EQ(refusal("{stair: {step: 4}}"), "test.yaml:1:2: unknown pattern 'stair' / did you mean 'stairs'?");

  // Its layout, alone and within others.
  const auto pattern = make_pattern(spec, 0, 1, 1);
  for (const std::int64_t n : {1, 7, 100}) {
    const Geometry g{n, true, 16};
    const TileLayout layout = build_layout(*pattern, g, 1);
    const TileLayout rest =
        build_layout(*parse_pattern("{minus: [full, {stairs: {step: 4, landing: 2}}]}"), g, 1);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j <= i; ++j) {
        ASSERT_EQ(layout.allows(0, i, j), j < i / 4 * 4 || j == i) << i << " " << j;
        ASSERT_EQ(rest.allows(0, i, j), j >= std::max<std::int64_t>(2, i / 4 * 4) && j != i) << i << " " << j;
      }
  }

  // Attention with it, forward and backward, against a dense one that knows the formula alone.
  constexpr std::int64_t n = 50;
  Random random(test_seed());
  const auto layout = std::make_shared<const TileLayout>(build_layout(*pattern, {n, true, 16}, 1));
  Tensor allowed = Tensor::zeros({1, n, n}, DType::u8);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j) allowed.data<std::uint8_t>()[i * n + j] = j < i / 4 * 4 || j == i;
  std::vector<Tensor> inputs;
  for (int i = 0; i < 4; ++i) inputs.push_back(random.normal({1, n, 1, 8}, DType::f64));
  const auto results = [&](bool dense) {
    const Var q(inputs[0], true), k(inputs[1], true), v(inputs[2], true);
    const Var out =
        dense ? reference_attention(q, k, v, allowed, *layout) : sparse_attention(q, k, v, layout);
    backward(out, inputs[3]);
    return std::vector<Tensor>{out.value(), q.grad(), k.grad(), v.grad()};
  };
  const auto sparse = results(false), dense = results(true);
  for (std::size_t r = 0; r < sparse.size(); ++r)
    for (std::int64_t i = 0; i < sparse[r].numel(); ++i)
      ASSERT_NEAR(sparse[r].item(i), dense[r].item(i), 1e-10) << r << " " << i;

  // What a sweep fits, what `explain` prints, and the reference.
  EXPECT_EQ(to_yaml(with_default_parameter(parse_yaml("stairs", "test.yaml"))), "stairs: {step: fit}\n");
  EXPECT_NE(pattern_rules_text().find("\n  stairs              j < s floor(i/s), or j = i\n"),
            std::string::npos);
  ExplainRequest request;
  request.layers = {pattern};
  request.geometry = {64, true, 16};
  EXPECT_EQ(explain(request).groups.front().statistics.exact_pairs, 64 + 4 * 4 * (15 * 16 / 2));
  FieldList list;
  pattern_kinds().back().fields(list);
  EXPECT_EQ(list.keys(), (std::vector<std::string>{"step", "landing"}));
}

// What the reference gives as an example can be read and made.
TEST(PatternTable, ExamplesWork) {
  for (const PatternKind& kind : pattern_kinds()) {
    if (kind.example.empty()) continue;
    const auto layers = make_layer_patterns(read_pattern(parse_yaml(kind.example, "example")), 6, 8);
    for (const PatternPtr& layer : layers) layer->validate({1024, true, 64}, 8);
  }
}

// --- mistakes ---

struct Mistake {
  const char* yaml;
  const char* where;  // line:column
  const char* says;   // part of the message or hint
};

class PatternMistakes : public testing::TestWithParam<Mistake> {};

TEST_P(PatternMistakes, AreErrorsWithPositionAndAdvice) {
  const auto& mistake = GetParam();
  try {
    const auto pattern = parse_pattern(mistake.yaml, 4, 0, 3);
    pattern->validate({100, true, 16}, 4);
    FAIL() << "accepted: " << mistake.yaml;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::usage);
    const std::string text = std::string(e.what()) + " / " + e.hint();
    EXPECT_EQ(text.find(fmt::format("test.yaml:{}:", mistake.where)), 0u) << text;
    EXPECT_NE(text.find(mistake.says), std::string::npos) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Patterns, PatternMistakes,
    testing::Values(
        Mistake{"[full]", "1:1", "a map with one key"}, Mistake{"ful", "1:1", "did you mean 'full'?"},
        Mistake{"local", "1:1", "local.window"}, Mistake{"{full: {}, local: {}}", "1:1", "one key"},
        Mistake{"{locl: {window: 4}}", "1:2", "did you mean 'local'?"},
        Mistake{"{zzzzzzzz: {}}", "1:2", "known patterns: full, local"},
        Mistake{"{block_topl: {k: 4}}", "1:2", "unknown pattern 'block_topl'"},
        Mistake{"{full: {window: 3}}", "1:9", "window"}, Mistake{"{local: {windw: 3}}", "1:10", "window"},
        Mistake{"{local: {}}", "1:9", "local.window"},
        Mistake{"{local: {window: 0}}", "1:18", "local.window"},
        Mistake{"{local: {window: 1.5}}", "1:18", "integer"},
        Mistake{"{local: {window: 4, dilation: 0}}", "1:31", "local.dilation"},
        Mistake{"{local: {window: 4, stride: 2}}", "1:21", "stride"},
        Mistake{"{global: {}}", "1:10", "either 'tokens' or 'positions'"},
        Mistake{"{global: {tokens: 1, positions: [1]}}", "1:10", "either"},
        Mistake{"{global: {token: 1}}", "1:11", "did you mean 'tokens'?"},
        Mistake{"{global: {positions: []}}", "1:22", "list of tokens"},
        Mistake{"{global: {positions: [3, 3]}}", "1:26", "twice"},
        Mistake{"{global: {positions: [100]}}", "1:22", "token 100, but the sequence has 100"},
        Mistake{"{strided: {stride: 0}}", "1:20", "strided.stride"},
        Mistake{"{fixed: {stride: 4, summary: 5}}", "1:30", "fixed.summary"},
        Mistake{"{random: {keys: 2, seed: -1}}", "1:26", "random.seed"},
        Mistake{"{random: {keys: 2, per_head: yes}}", "1:30", "random.per_head"},
        Mistake{"{random_blocks: {block: 0, blocks: 1}}", "1:25", "random_blocks.block"},
        Mistake{"{block: {size: 4}}", "1:9", "either 'size' and 'pairs'"},
        Mistake{"{block: {file: x.h5, size: 4}}", "1:9", "'file' alone"},
        Mistake{"{block: {size: 4, pairs: [[1]]}}", "1:27", "[query block, key block]"},
        Mistake{"{block: {size: 4, pairs: [[1, 0], [1, 0]]}}", "1:35", "twice"},
        Mistake{"{block: {size: 50, pairs: [[2, 0]]}}", "1:27", "2 blocks"},
        Mistake{"{bigbird: {windows: 3}}", "1:12", "did you mean 'window'?"},
        Mistake{"{bigbird: {global: -1}}", "1:20", "bigbird.global"},
        Mistake{"{longformer: {window: 4}}", "1:14", "longformer.global"},
        Mistake{"{union: []}", "1:9", "list of patterns"}, Mistake{"{union: {full: {}}}", "1:9", "list"},
        Mistake{"{union: [{full: {}},\n {ful: {}}]}", "2:3", "did you mean 'full'?"},
        Mistake{"{minus: [{full: {}}]}", "1:9", "not 1"},
        Mistake{"{heads: [{count: 3, pattern: {full: {}}}]}", "1:9", "add up to 3, but the model has 4"},
        Mistake{"{heads: [{count: 3, pattern: {full: {}}}, {count: 2, pattern: {full: {}}}]}", "1:9",
                "add up to 5"},
        Mistake{"{heads: [{count: 4}]}", "1:10", "heads.pattern"},
        Mistake{"{heads: [{count: 4, pattern: {heads: [{count: 4, pattern: {full: {}}}]}}]}", "1:38",
                "inside heads"},
        Mistake{"{layers: [{layers: 0-1, pattern: {full: {}}}]}", "1:10", "no pattern for layer 2"},
        Mistake{"{layers: [{layers: 0-3, pattern: {full: {}}}]}", "1:20", "no layer 3"},
        Mistake{"{layers: [{layers: 2-0, pattern: {full: {}}}]}", "1:20", "backwards"},
        Mistake{"{layers: [{layers: all, pattern: {full: {}}}]}", "1:20", "for example 2, 0-3"},
        Mistake{"{layers: [{layers: 0-2, pattern: {layers: []}}]}", "1:43", "inside layers"},
        // A mistake in an entry that is not this layer's shows all the same.
        Mistake{"{layers: [{layers: 0-2, pattern: {full: {}}}, {layers: 1, pattern: {fulll: {}}}]}", "1:69",
                "did you mean 'full'?"}));

}  // namespace
}  // namespace filigree
