// Learned patterns: dictionaries, budgets, gradients through the sparse kernel, state.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "attention/learned/unit_dictionary.h"
#include "tests/learned_cases.h"

namespace filigree {
namespace {

using namespace test;

template <class M>
std::shared_ptr<M> mechanism(const std::string& yaml, const LearnedHeads& h, DType type = DType::f64) {
  return std::dynamic_pointer_cast<M>(pattern(yaml, h.n_heads)->learned(0)->make(h, factory(type)));
}

void set_parameters(Module& module, const std::function<double(const std::string&)>& value) {
  module.visit([&](Parameter& p) {
    for (int64_t i = 0; i < p.var.numel(); ++i) p.var.value().data<double>()[i] = value(p.name);
  });
}

// --- the dictionary ---

TEST(UnitDictionary, EveryTileIsInTheUnitsThatItsPlaceSays) {
  Random random(test_seed(), 1);
  for (int round = 0; round < 30; ++round) {
    const Geometry g{random.size(16, 900), random.coin(), 16};
    UnitOptions o;
    o.distances = random.range(0, 12);
    o.bands = o.distances ? random.range(1, 4) : 4;
    o.sinks = random.range(0, 3);
    if (random.coin()) o.strides = {random.range(2, 5)};
    o.columns.clear();
    if (random.coin()) o.columns = {random.range(2, 5), 8};
    o.random_sets = random.range(0, 2);
    const UnitDictionary d(o, g);
    std::vector<int32_t> units;
    int64_t classified = 0;
    for (int64_t q = 0; q < d.tiles(); ++q)
      for (int64_t k = 0; k < d.tiles(); ++k) {
        const int32_t c = d.class_of(q, k);
        ASSERT_EQ(c >= 0, q != k && (!g.causal || k < q));
        if (c < 0) continue;
        ++classified;
        d.units_of(q, k, units);
        ASSERT_TRUE(std::ranges::equal(units, d.units_of_class(c)));
        std::set<std::string> names;
        for (const int32_t u : units) names.insert(d.name(u));
        ASSERT_EQ(names.size(), units.size());
        const int64_t distance = std::abs(q - k);
        const std::string side = k > q ? "ahead " : "";
        EXPECT_EQ(names.contains(fmt::format("{}distance {}", side, distance)), distance <= o.distances);
        EXPECT_EQ(names.contains(fmt::format("sink {}", k)), k < o.sinks);
        for (const int64_t s : o.strides)
          EXPECT_TRUE(names.contains(fmt::format("stride {} residue {}", s, ((q - k) % s + s) % s)));
        for (const int64_t s : o.columns)
          EXPECT_TRUE(names.contains(fmt::format("column {} residue {}", s, k % s)));
        const auto band = std::ranges::find_if(names, [](auto& n) { return n.find("distances") != n.npos; });
        EXPECT_EQ(band != names.end(), distance > o.distances);
      }
    int64_t counted = 0;
    for (int c = 0; c < d.n_classes(); ++c) counted += d.tiles_of_class(c);
    EXPECT_EQ(counted, classified);
  }
}

TEST(UnitDictionary, ALongerSequenceHasTheSameUnits) {
  UnitOptions o;
  o.distances = 4;
  o.columns = {4};
  const UnitDictionary d(o, {512, true, 16});
  std::vector<int32_t> here, there;
  d.units_of(30, 20, here);     // 32 tiles a side
  d.units_of(130, 120, there);  // the same distance and column
  EXPECT_EQ(here, there);
  d.units_of(2000, 1000, there);  // a distance that was never seen
  for (const int32_t u : there) EXPECT_EQ(d.name(u).substr(0, 6), "column");
}

TEST(UnitDictionary, SaysWhatItCannotCover) {
  const LearnedHeads h = heads(512, 2);
  const std::string text = message([&] {
    mechanism<Gated>("learned_layout: {budget: 0.5, distances: 2, bands: 0, sinks: 1, columns: []}", h);
  });
  EXPECT_NE(text.find("no unit covers the tiles at distance 3"), std::string::npos) << text;
  EXPECT_NE(text.find("give more distances, bands, or a stride"), std::string::npos) << text;
}

// --- budgets ---

TEST(LearnedBudget, HardeningKeepsExactlyTheBudgetAndTheDiagonal) {
  Random random(test_seed(), 2);
  for (int round = 0; round < 40; ++round) {
    const bool span = random.coin();
    const LearnedHeads h =
        heads(random.size(40, 500), static_cast<int>(random.range(1, 4)), 0, 16, random.coin());
    const double budget = 0.2 + 0.8 * random.stream().uniform();
    const auto m = mechanism<Gated>(
        fmt::format("{}: {{budget: {}}}", span ? "learned_span" : "learned_layout", std::max(budget, 0.6)),
        h);
    set_parameters(*m, [&](const std::string&) { return random.stream().normal(); });
    for (const int64_t n : {h.geometry.n, h.geometry.n * 3, h.geometry.n / 2}) {
      const auto tiles = m->hardened_tiles(n);
      EXPECT_EQ(std::ssize(tiles), m->budget_tiles(n));
      EXPECT_EQ(tiles, m->hardened_tiles(n));
      std::set<std::tuple<int, int, int>> seen;
      int64_t diagonal = 0;
      for (const HeadTile& t : tiles) {
        EXPECT_TRUE(seen.emplace(t.head, t.q, t.k).second);
        EXPECT_TRUE(!h.geometry.causal || t.k <= t.q);
        diagonal += t.q == t.k;
      }
      EXPECT_EQ(diagonal, h.n_heads * m->query_tiles(n));
    }
  }
}

TEST(LearnedBudget, ASpanIsCutPerHead) {
  const LearnedHeads h = heads(320, 3);  // 20 tiles a side
  const auto m = mechanism<Gated>("learned_span: {tiles: 260}", h);
  double value = 0;
  set_parameters(*m, [&](const std::string& name) { return name == "p.span" ? (value += 0.3) - 0.3 : 0; });
  std::vector<int> longest(3);
  for (const HeadTile& t : m->hardened_tiles(320))
    longest[static_cast<std::size_t>(t.head)] =
        std::max(longest[static_cast<std::size_t>(t.head)], t.q - t.k);
  EXPECT_LT(longest[0], longest[1]);
  EXPECT_LT(longest[1], longest[2]);
}

TEST(LearnedBudget, ErrorsHaveTheNumbers) {
  const LearnedHeads h = heads(512, 2);  // 32 tiles a side, 64 on the diagonal of 1056
  EXPECT_EQ(
      message([&] { mechanism<Gated>("learned_layout: {tiles: 63}", h); }),
      "p: a budget of 63 tiles cannot hold the diagonal, 64 tiles (2 heads of 512 tokens in tiles of 16) | "
      "take a budget of at least 0.06061, or smaller tiles");
  EXPECT_NE(message([&] {
              mechanism<Gated>("learned_layout: {tiles: 2000}", h);
            }).find("a budget of 2000 tiles is more than full attention computes, 1056"),
            std::string::npos);
  const auto yaml_error = [](const std::string& yaml) { return message([&] { pattern(yaml, 2); }); };
  EXPECT_NE(yaml_error("learned_layout: {}").find("test:1:17: learned_layout.budget is missing"),
            std::string::npos)
      << yaml_error("learned_layout: {}");
  EXPECT_NE(yaml_error("learned_layout: {budget: 0.1, tiles: 9}").find("exclude each other"),
            std::string::npos);
  EXPECT_NE(yaml_error("learned_layout: {budget: 1.5}").find("learned_layout.budget"), std::string::npos);
  EXPECT_NE(yaml_error("learned_span: {budget: 0.1, explore: 0.1}").find("learned_span.explore"),
            std::string::npos);
  EXPECT_NE(yaml_error("learned_layout: {budget: 0.1, warmup: 0.7}").find("does not hold"),
            std::string::npos);
  EXPECT_NE(yaml_error("learned_layout: {budget: 0.1, columns: [4, 4]}").find("names 4 twice"),
            std::string::npos);
  EXPECT_NE(yaml_error("block_topk: {topk: 0}").find("block_topk.topk"), std::string::npos);
  EXPECT_NE(yaml_error("block_topk: {harden: 0.5}").find("block_topk.budget is missing"), std::string::npos);
  EXPECT_NE(yaml_error("union: [{learned_span: {budget: 0.1}}, {local: {window: 8}}]")
                .find("a learned pattern cannot stand inside union"),
            std::string::npos);
}

TEST(LearnedBudget, TheTargetFallsFromAllToTheBudget) {
  const auto m = mechanism<Gated>("learned_layout: {budget: 0.25, warmup: 0.2, anneal: 0.6}", heads(512, 2));
  EXPECT_EQ(m->target_share(0.1), 1);
  EXPECT_EQ(m->target_share(0.2), 1);
  EXPECT_NEAR(m->target_share(0.4), 0.5, 1e-12);
  EXPECT_NEAR(m->target_share(0.6), 0.25, 1e-12);
  EXPECT_NEAR(m->target_share(0.9), 0.25, 1e-12);
}

TEST(LearnedBudget, AimingHoldsTheExpectedShare) {
  Random random(test_seed(), 7);
  for (int round = 0; round < 40; ++round) {
    const std::string name = random.coin() ? "learned_span" : "learned_layout";
    const LearnedHeads h =
        heads(random.size(80, 500), static_cast<int>(random.range(1, 4)), 0, 16, random.coin());
    const auto m = mechanism<Gated>(name + ": {budget: 0.5}", h);
    set_parameters(*m, [&](const std::string&) { return random.stream().normal(); });
    const double progress = random.stream().uniform();
    m->aim(progress);
    EXPECT_NEAR(m->expected_share().value().item(), std::min(0.99, m->target_share(progress)), 1e-9)
        << name << ", " << h.geometry.n << " tokens, progress " << progress;
    const auto copy = mechanism<Gated>(name + ": {budget: 0.5}", h);  // as a checkpoint restores it
    std::size_t i = 0;
    const auto values = leaves_of(*m);
    copy->visit([&](Parameter& p) { p.var.value().copy_from(values[i++].value()); });
    copy->load_state(m->state(), 1);
    EXPECT_EQ(copy->expected_share().value().item(), m->expected_share().value().item());
  }
}

// --- gradients ---

// Every tile, with its gate from the mechanism's table.
Var attend_all(const Gated& m, const Inputs& in, const LayoutPtr& layout) {
  std::vector<int32_t> index;
  for (int head = 0; head < layout->n_heads(); ++head)
    for (int64_t q = 0; q < layout->query_tiles(); ++q)
      for (int64_t t = layout->of_head(head).row_offsets[q]; t < layout->of_head(head).row_offsets[q + 1];
           ++t) {
        const int32_t k = layout->of_head(head).columns[t];
        index.push_back(q == k ? 0 : 1 + m.entry(head, q, k));
      }
  const Var parts[] = {Var(Tensor::full({1}, 1, DType::f64)), m.gates(false)};
  const Var table = ops::concat_last(parts);
  AttentionOptions options;
  options.gate = ops::reshape(
      ops::embedding(ops::reshape(table, {table.numel(), 1}), Tensor::of({std::ssize(index)}, index)),
      {layout->gate_size()});
  return sparse_attention(in.q, in.k, in.v, layout, options);
}

TEST(LearnedGradients, OfGatedsThroughTheKernel) {
  Random random(test_seed(), 3);
  for (const std::string name : {"learned_layout", "learned_span"})
    for (int round = 0; round < 10; ++round) {
      const LearnedHeads h =
          heads(random.size(33, 90), static_cast<int>(random.range(1, 3)), 0, 16, random.coin());
      const auto m =
          mechanism<Gated>(name + (name == "learned_span" ? ": {budget: 0.9, ramp: 2.5}"
                                                          : ": {budget: 0.9, distances: 2, columns: [2]}"),
                           h);
      // Off the clips: log_alpha is kept as its distance from 2.5; a ramp of 2.5 tiles bends at halves of
      // tiles.
      const int64_t spans = m->query_tiles(h.geometry.n) - 1;
      set_parameters(*m, [&](const std::string& p) {
        const double u = random.stream().uniform();
        if (p == "p.span")
          return (static_cast<double>(random.range(0, spans - 1)) + 0.25) / static_cast<double>(spans);
        return p == "p.log_alpha" ? -2.5 + 3 * (u - 0.5) : u;
      });
      const LayoutPtr all = std::make_shared<const TileLayout>(
          build_layout(*pattern("full", h.n_heads), h.geometry, h.n_heads));
      const Inputs in = random_inputs(random, 1, h);
      EXPECT_TRUE(
          gradients_agree([&] { return attend_all(*m, in, all); }, leaves_of(*m), {.max_elements = 12}))
          << name << ", " << h.geometry.n << " tokens";
    }
}

// Raising one level lowers the others, as they share the budget.
TEST(LearnedGradients, CountWhatMakesRoom) {
  Random random(test_seed(), 8);
  for (int round = 0; round < 10; ++round) {
    const LearnedHeads h = heads(random.size(49, 90), static_cast<int>(random.range(1, 3)));
    const auto m = mechanism<Gated>("learned_layout: {budget: 0.9, distances: 2, columns: [2], sinks: 0}", h);
    set_parameters(*m, [&](const std::string&) { return 0.2 * (random.stream().uniform() - 0.5); });
    const Var weights(random.normal({m->entries()}));
    EXPECT_TRUE(gradients_agree(
        [&] {
          m->aim(1);
          return ops::mul(m->gates(false), weights);
        },
        leaves_of(*m),
        {.tolerance = 1e-5, .step = 1e-4}))  // the levels are eight times as sharp as those elsewhere
        << h.geometry.n << " tokens";
  }
}

// A unit whose gate is exactly 0 gets the gradient with which it would come back.
TEST(LearnedGradients, AtGateZeroIsTheOneSidedDerivative) {
  Random random(test_seed(), 4);
  for (int round = 0; round < 10; ++round) {
    const LearnedHeads h = heads(64, 2);
    const auto m = mechanism<Gated>("learned_layout: {budget: 0.9, distances: 3, sinks: 0}", h);
    const double edge = std::log(1.0 / 11) - 2.5 - 1e-12;  // sigmoid(log_alpha) = 1 / 12
    set_parameters(*m, [&](const std::string&) { return edge; });
    const Tensor gates = m->gates(false).value();
    for (int64_t i = 0; i < gates.numel(); ++i) ASSERT_EQ(gates.item(i), 0);
    const LayoutPtr all =
        std::make_shared<const TileLayout>(build_layout(*pattern("full", 2), h.geometry, 2));
    const Inputs in = random_inputs(random, 1, h);
    const Var weights(random.normal({1, 64, 2, 8}));
    const auto f = [&] { return ops::sum(ops::mul(attend_all(*m, in, all), weights)); };
    m->visit([](Parameter& p) { p.var.zero_grad(); });
    backward(f());
    Var alpha = leaves_of(*m)[0];
    for (int64_t i = 0; i < alpha.numel(); ++i) {
      double& x = alpha.value().data<double>()[i];
      const auto at = [&](double offset) {
        x = edge + offset;
        const NoGrad guard;
        return f().value().item();
      };
      const double step = 3e-6, difference = (4 * at(step) - at(2 * step) - 3 * at(0)) / (2 * step);
      x = edge;
      EXPECT_NEAR(alpha.grad().item(i), difference, 1e-4 * std::max(1.0, std::abs(difference)));
    }
  }
}

// --- layers ---

TEST(LearnedLayer, PassesThroughItsPhases) {
  const auto l = layer(
      "heads: [{count: 1, pattern: {local: {window: 20}}}, {count: 3, pattern: {learned_layout: {budget: "
      "0.4, explore: 0.5}}}]",
      {160, true, 16}, 4);
  l->advance({0, 0, 7});
  Connected c = l->connect({160, true});
  EXPECT_FALSE(c.gate.defined());
  EXPECT_EQ(c.layout->of_head(0).tiles(),
            10 + 9 + 8);  // a window of 20 reaches into the tile before the last
  for (int head = 1; head < 4; ++head) EXPECT_EQ(c.layout->of_head(head).tiles(), 55);

  l->advance({40, 0.4, 7});
  c = l->connect({160, true});
  ASSERT_TRUE(c.gate.defined());
  EXPECT_EQ(c.gate.numel(), c.layout->gate_size());
  for (int64_t t = 0; t < c.layout->of_head(0).tiles(); ++t) EXPECT_EQ(c.gate.value().item(t), 1);
  EXPECT_FALSE(l->is_static());

  l->advance({80, 0.8, 7});
  EXPECT_TRUE(l->is_static());
  c = l->connect({160, true});
  EXPECT_FALSE(c.gate.defined());
  int64_t tiles = 0;
  for (int head = 1; head < 4; ++head) tiles += c.layout->of_head(head).tiles();
  EXPECT_EQ(tiles, std::llround(0.4 * 165));
  EXPECT_EQ(*l->connect({160}).layout, *c.layout);
  EXPECT_EQ(*l->hardened(160), *c.layout);
  EXPECT_GT(l->connect({640}).layout->of_head(1).tiles(), 0);  // at another length
}

TEST(LearnedLayer, DoesNotBelieveEveryGradientOfAGate) {
  const auto l = layer("learned_layout: {budget: 0.5, explore: 1}", {160, true, 16}, 2);
  l->advance({40, 0.4, test_seed()});
  const Connected c = l->connect({160, true});
  backward(c.gate, Tensor::full({c.gate.numel()}, 1e15, DType::f64));
  Var alpha = leaves_of(*l)[0];
  double greatest = 0;
  for (int64_t i = 0; i < alpha.numel(); ++i) greatest = std::max(greatest, std::abs(alpha.grad().item(i)));
  EXPECT_GT(greatest, 0);
  EXPECT_LT(greatest, 1000);
}

TEST(LearnedLayer, ExploresSwitchedOffTilesAtGateZero) {
  const Geometry g{640, true, 16};
  const auto l = layer("learned_layout: {budget: 0.2, explore: 0.25}", g, 2);
  set_parameters(*l, [](const std::string& name) { return name == "p.log_alpha" ? -30 : 0; });
  l->advance({5, 0.5, test_seed()});
  const Connected c = l->connect({640, true});
  const int64_t off = 2 * 40 * 39 / 2, explored = c.layout->gate_size() - 80;
  EXPECT_NEAR(static_cast<double>(explored), 0.25 * off, 6 * std::sqrt(0.25 * 0.75 * off));
  for (int64_t i = 0; i < c.gate.numel(); ++i)
    EXPECT_TRUE(c.gate.value().item(i) == 0 || c.gate.value().item(i) == 1);
  EXPECT_EQ(l->connect({640}).layout->gate_size(), 80);  // evaluation does not explore
  const LearnTelemetry t = l->telemetry().value();
  EXPECT_EQ(t.actual_tiles, 80);
  EXPECT_EQ(t.dead_units, t.units);
  EXPECT_EQ(t.histogram[0], 2 * t.units);
}

TEST(LearnedLayer, StateBringsBackTheSameTiles) {
  Random random(test_seed(), 5);
  const Geometry g{320, true, 16};
  for (const std::string yaml :
       {"learned_layout: {budget: 0.3, refresh: 4}", "learned_span: {budget: 0.3, refresh: 3}",
        "heads: [{count: 2, pattern: {learned_span: {budget: 0.4, refresh: 2}}}, {count: 2, pattern: "
        "{learned_layout: "
        "{budget: 0.3, explore: 0.2, refresh: 5}}}]"})
    for (const double progress : {0.05, 0.5, 0.9}) {
      const auto a = layer(yaml, g, 4), b = layer(yaml, g, 4);
      set_parameters(*a, [&](const std::string&) { return -2.5 + random.stream().normal(); });
      a->advance({10, progress, 3});
      const LayoutPtr before = a->connect({320, true}).layout;
      std::vector<Tensor> values;
      a->visit([&](Parameter& p) { values.push_back(p.var.value().clone()); });
      std::size_t i = 0;
      b->visit([&](Parameter& p) { p.var.value().copy_from(values[i++]); });
      // The parameters move on before the state is read: what was chosen stays.
      b->load_state(a->state(), 3);
      a->advance({11, progress, 3});
      b->advance({11, progress, 3});
      const auto ca = a->connect({320, true}), cb = b->connect({320, true});
      EXPECT_EQ(*ca.layout, *cb.layout) << yaml << progress;
      ASSERT_EQ(ca.gate.defined(), cb.gate.defined());
      const int64_t gates = ca.gate.defined() ? ca.gate.numel() : 0;
      for (int64_t t = 0; t < gates; ++t) ASSERT_EQ(ca.gate.value().item(t), cb.gate.value().item(t));
      EXPECT_EQ(*before, *ca.layout);  // within `refresh` steps
    }
}

TEST(LearnedLayer, RefusesAStateThatIsNotIts) {
  const auto a = layer("learned_layout: {budget: 0.3}", {320, true, 16}, 2);
  const auto b = layer("learned_layout: {budget: 0.3}", {160, true, 16}, 2);
  EXPECT_NE(message([&] { b->load_state({}, 1); }).find("the checkpoint lacks p.phase"), std::string::npos);
  a->harden();
  EXPECT_NE(message([&] { b->load_state(a->state(), 1); }).find("the checkpoint's p.tiles has the tile"),
            std::string::npos);
}

}  // namespace
}  // namespace filigree
