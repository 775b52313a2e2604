// Learned patterns: dictionaries, budgets, gradients through the sparse kernel, routing, state.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "attention/learned/learned_layer.h"
#include "attention/learned/unit_dictionary.h"
#include "attention/sparse_attention.h"
#include "core/ops.h"
#include "tests/gradcheck.h"

namespace filigree {
namespace {

using std::int64_t;

PatternPtr pattern(const std::string& yaml, int n_heads) {
  return make_pattern(parse_yaml(yaml, "test"), 0, 1, n_heads);
}

ParameterFactory factory(DType type = DType::f64) {
  return {test_seed(), Device::cpu(), type};
}

LearnedHeads heads(int64_t n, int n_heads, int n_kv_heads = 0, int tile = 16, bool causal = true,
                   int64_t dim = 8) {
  return {"p", n_heads, n_kv_heads ? n_kv_heads : n_heads, dim, {n, causal, tile}};
}

template <class M>
std::unique_ptr<M> mechanism(const std::string& yaml, const LearnedHeads& h, DType type = DType::f64) {
  const PatternPtr made = pattern(yaml, h.n_heads);
  std::unique_ptr<Mechanism> m = made->learned(0)->make(h, factory(type));
  return std::unique_ptr<M>(dynamic_cast<M*>(m.release()));
}

std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return std::string(e.what()) + " | " + e.hint();
  }
  return "no error";
}

void set_parameters(Module& module, const std::function<double(const std::string&)>& value) {
  module.visit([&](Parameter& p) {
    for (int64_t i = 0; i < p.var.numel(); ++i) p.var.value().data<double>()[i] = value(p.name);
  });
}

std::vector<Var> leaves_of(Module& module) {
  std::vector<Var> all;
  module.visit([&](Parameter& p) { all.push_back(p.var); });
  return all;
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
    mechanism<GatedMechanism>("learned_layout: {budget: 0.5, distances: 2, bands: 0, sinks: 1, columns: []}",
                              h);
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
    const auto m = mechanism<GatedMechanism>(
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
  const auto m = mechanism<GatedMechanism>("learned_span: {tiles: 260}", h);
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
      message([&] { mechanism<GatedMechanism>("learned_layout: {tiles: 63}", h); }),
      "p: a budget of 63 tiles cannot hold the diagonal, 64 tiles (2 heads of 512 tokens in tiles of 16) | "
      "take a budget of at least 0.06061, or smaller tiles");
  EXPECT_NE(message([&] {
              mechanism<GatedMechanism>("learned_layout: {tiles: 2000}", h);
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
  const auto m =
      mechanism<GatedMechanism>("learned_layout: {budget: 0.25, warmup: 0.2, anneal: 0.6}", heads(512, 2));
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
    const auto m = mechanism<GatedMechanism>(name + ": {budget: 0.5}", h);
    set_parameters(*m, [&](const std::string&) { return random.stream().normal(); });
    const double progress = random.stream().uniform();
    m->aim(progress);
    EXPECT_NEAR(m->expected_share().value().item(), std::min(0.99, m->target_share(progress)), 1e-9)
        << name << ", " << h.geometry.n << " tokens, progress " << progress;
    const auto copy = mechanism<GatedMechanism>(name + ": {budget: 0.5}", h);  // as a checkpoint restores it
    std::size_t i = 0;
    const auto values = leaves_of(*m);
    copy->visit([&](Parameter& p) { p.var.value().copy_from(values[i++].value()); });
    copy->load_state(m->state());
    EXPECT_EQ(copy->expected_share().value().item(), m->expected_share().value().item());
  }
}

// --- gradients ---

struct Inputs {
  Var q, k, v;
};

Inputs random_inputs(Random& random, int64_t batch, const LearnedHeads& h) {
  const int64_t n = h.geometry.n, d = h.head_dim;
  return {Var(random.normal({batch, n, h.n_heads, d})), Var(random.normal({batch, n, h.n_kv_heads, d})),
          Var(random.normal({batch, n, h.n_kv_heads, d}))};
}

// Every tile, with its gate from the mechanism's table.
Var attend_all(const GatedMechanism& m, const Inputs& in, const LayoutPtr& layout) {
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

TEST(LearnedGradients, OfGatedMechanismsThroughTheKernel) {
  Random random(test_seed(), 3);
  for (const std::string name : {"learned_layout", "learned_span"})
    for (int round = 0; round < 10; ++round) {
      const LearnedHeads h =
          heads(random.size(33, 90), static_cast<int>(random.range(1, 3)), 0, 16, random.coin());
      const auto m = mechanism<GatedMechanism>(
          name + (name == "learned_span" ? ": {budget: 0.9, ramp: 2.5}"
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
    const auto m =
        mechanism<GatedMechanism>("learned_layout: {budget: 0.9, distances: 2, columns: [2], sinks: 0}", h);
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
    const auto m = mechanism<GatedMechanism>("learned_layout: {budget: 0.9, distances: 3, sinks: 0}", h);
    const double edge = std::log(1.0 / 11) - 2.5 - 1e-12;  // sigmoid(log_alpha) = 1 / 12
    set_parameters(*m, [&](const std::string&) { return edge; });
    const Tensor gates = m->gates(false).value();
    for (int64_t i = 0; i < gates.numel(); ++i) ASSERT_EQ(gates.item(i), 0);
    const LayoutPtr all =
        std::make_shared<const TileLayout>(build_layout(*pattern("full", 2), h.geometry, 2));
    const Inputs in = random_inputs(random, 1, h);
    const Var weights(random.normal({1, 64, 2, 8}));
    const auto f = [&] { return ops::sum(ops::mul(attend_all(*m, in, all), weights)); };
    m->zero_grad();
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

std::unique_ptr<LearnedLayer> layer(const std::string& yaml, const Geometry& g, int n_heads,
                                    int n_kv_heads = 0, DType type = DType::f64) {
  return std::make_unique<LearnedLayer>(factory(type), "p", pattern(yaml, n_heads), g, n_heads,
                                        n_kv_heads ? n_kv_heads : n_heads, 8);
}

TEST(LearnedLayer, PassesThroughItsPhases) {
  const auto l = layer(
      "heads: [{count: 1, pattern: {local: {window: 20}}}, {count: 3, pattern: {learned_layout: {budget: "
      "0.4, explore: 0.5}}}]",
      {160, true, 16}, 4);
  l->advance({0, 0, 7});
  LearnedLayer::Connection c = l->connect(160, true);
  EXPECT_FALSE(c.gate.defined());
  EXPECT_EQ(c.layout->of_head(0).tiles(),
            10 + 9 + 8);  // a window of 20 reaches into the tile before the last
  for (int head = 1; head < 4; ++head) EXPECT_EQ(c.layout->of_head(head).tiles(), 55);

  l->advance({40, 0.4, 7});
  c = l->connect(160, true);
  ASSERT_TRUE(c.gate.defined());
  EXPECT_EQ(c.gate.numel(), c.layout->gate_size());
  for (int64_t t = 0; t < c.layout->of_head(0).tiles(); ++t) EXPECT_EQ(c.gate.value().item(t), 1);
  EXPECT_FALSE(l->is_static());

  l->advance({80, 0.8, 7});
  EXPECT_TRUE(l->is_static());
  c = l->connect(160, true);
  EXPECT_FALSE(c.gate.defined());
  int64_t tiles = 0;
  for (int head = 1; head < 4; ++head) tiles += c.layout->of_head(head).tiles();
  EXPECT_EQ(tiles, std::llround(0.4 * 165));
  EXPECT_EQ(*l->connect(160, false).layout, *c.layout);
  EXPECT_EQ(*l->hardened_layout(160), *c.layout);
  EXPECT_GT(l->connect(640, false).layout->of_head(1).tiles(), 0);  // at another length
}

TEST(LearnedLayer, DoesNotBelieveEveryGradientOfAGate) {
  const auto l = layer("learned_layout: {budget: 0.5, explore: 1}", {160, true, 16}, 2);
  l->advance({40, 0.4, test_seed()});
  const LearnedLayer::Connection c = l->connect(160, true);
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
  const LearnedLayer::Connection c = l->connect(640, true);
  const int64_t off = 2 * 40 * 39 / 2, explored = c.layout->gate_size() - 80;
  EXPECT_NEAR(static_cast<double>(explored), 0.25 * off, 6 * std::sqrt(0.25 * 0.75 * off));
  for (int64_t i = 0; i < c.gate.numel(); ++i)
    EXPECT_TRUE(c.gate.value().item(i) == 0 || c.gate.value().item(i) == 1);
  EXPECT_EQ(l->connect(640, false).layout->gate_size(), 80);  // evaluation does not explore
  const LearnTelemetry t = l->telemetry();
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
      const LayoutPtr before = a->connect(320, true).layout;
      std::vector<Tensor> values;
      a->visit([&](Parameter& p) { values.push_back(p.var.value().clone()); });
      std::size_t i = 0;
      b->visit([&](Parameter& p) { p.var.value().copy_from(values[i++]); });
      // The parameters move on before the state is read: what was chosen stays.
      b->load_state(a->state(), 3);
      a->advance({11, progress, 3});
      b->advance({11, progress, 3});
      const auto ca = a->connect(320, true), cb = b->connect(320, true);
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

// --- block_topk ---

// Queries large enough that rows prefer some tiles.
Inputs seeking(Inputs in) {
  ops::scale_in_place(in.q.value(), 8);
  return in;
}

struct Routed {
  LayoutPtr layout;  // of the heads of all sequences
  Var o;             // [B, N, H, D]
};

Routed attend_routed(const LearnedLayer& l, const Inputs& in, bool training) {
  const LearnedLayer::Connection c = l.connect_each(in.q, in.k, {}, training);
  AttentionOptions options;
  options.gate = c.gate;
  return {c.layout, sparse_attention(in.q, in.k, in.v, c.layout, options)};
}

TEST(BlockTopk, KeepsItsBudgetInEveryRowAndShowsTilesToLaterRowsOnly) {
  Random random(test_seed(), 6);
  for (int round = 0; round < 10; ++round) {
    const int kv = static_cast<int>(random.range(1, 2)), n_heads = kv * static_cast<int>(random.range(1, 2));
    const int64_t n = random.size(40, 200), topk = random.range(1, 3), sinks = random.range(0, 2);
    const auto l =
        layer(fmt::format("block_topk: {{topk: {}, sinks: {}}}", topk, sinks), {n, true, 16}, n_heads, kv);
    l->advance({0, 0.5, 1});
    ASSERT_TRUE(l->routes());
    const Inputs in = seeking(random_inputs(random, 2, heads(n, n_heads, kv)));
    const Routed r = attend_routed(*l, in, false);
    ASSERT_EQ(r.layout->n_heads(), 2 * n_heads);
    for (int head = 0; head < 2 * n_heads; ++head)
      for (int64_t q = 0; q < r.layout->query_tiles(); ++q) {
        const TilePattern& p = r.layout->of_head(head);
        const int64_t tiles = p.row_offsets[q + 1] - p.row_offsets[q];
        EXPECT_LE(tiles, 1 + std::min(q, sinks) + topk);
        EXPECT_GE(tiles, 1 + std::min(q, sinks));
        if (q == 0) continue;
        const auto row = std::span(p.columns).subspan(p.row_offsets[q], tiles);
        EXPECT_EQ(*std::ranges::max_element(row), q);  // the diagonal, and nothing beyond
      }
  }
}

// Beside heads that are fixed or have gates, and whatever else is in the batch.
TEST(BlockTopk, RoutesEachSequenceAsIfItWereAlone) {
  Random random(test_seed(), 12);
  for (int round = 0; round < 10; ++round) {
    const int64_t n = random.size(40, 200), B = 3;
    const auto l = layer(
        "heads: [{count: 2, pattern: {block_topk: {topk: 2, explore: 0}}}, {count: 2, pattern: {local: "
        "{window: 20}}}, "
        "{count: 2, pattern: {learned_layout: {budget: 0.9}}}, {count: 2, pattern: {block_topk: {topk: 1, "
        "sinks: "
        "0, explore: 0}}}]",
        {n, true, 16}, 8, 4);
    l->advance({0, 0.5, 1});
    const Inputs in = seeking(random_inputs(random, B, heads(n, 8, 4)));
    const bool training = random.coin();
    const Routed together = attend_routed(*l, in, training);
    ASSERT_EQ(together.layout->n_heads(), 8 * B);
    for (int64_t b = 0; b < B; ++b) {
      const Inputs one{ops::slice(in.q, b, b + 1), ops::slice(in.k, b, b + 1), ops::slice(in.v, b, b + 1)};
      const Routed alone = attend_routed(*l, one, training);
      for (int head = 0; head < 8; ++head)
        EXPECT_EQ(together.layout->of_head(static_cast<int>(b) * 8 + head), alone.layout->of_head(head));
      for (int64_t i = 0; i < alone.o.numel(); ++i)
        ASSERT_NEAR(alone.o.value().item(i), together.o.value().item(b * alone.o.numel() + i), 1e-12);
    }
    EXPECT_EQ(*attend_routed(*l, in, training).layout, *together.layout);
    for (int head = 0; head < 8; ++head)  // of the last sequence
      EXPECT_EQ(l->training_layout()->of_head(head), together.layout->of_head(16 + head));
  }
}

// What a query computes depends on nothing that comes after it.
TEST(BlockTopk, IsCausalToTheToken) {
  Random random(test_seed(), 7);
  for (int round = 0; round < 20; ++round) {
    const int64_t n = random.size(40, 150), from = random.range(1, n - 1);
    const auto l = layer("block_topk: {topk: 2, sinks: 1}", {n, true, 16}, 2, 1);
    l->advance({0, 0.5, 1});
    Inputs in = seeking(random_inputs(random, 1, heads(n, 2, 1)));
    const NoGrad no_tape;
    const Tensor before = attend_routed(*l, in, false).o.value().clone();
    for (Var* x : {&in.q, &in.k, &in.v}) {
      const int64_t row = x->numel() / n;
      for (int64_t i = from * row; i < x->numel(); ++i)
        x->value().data<double>()[i] = 3 * random.stream().normal();
    }
    const Tensor after = attend_routed(*l, in, false).o.value();
    for (int64_t i = 0; i < from * 16; ++i)
      ASSERT_NEAR(before.item(i), after.item(i), 1e-12) << "row " << i / 16;
  }
}

TEST(BlockTopk, RouterLearnsThroughTheGate) {
  Random random(test_seed(), 8);
  for (int round = 0; round < 6; ++round) {
    const int64_t n = random.size(40, 90);
    const auto l = layer("block_topk: {topk: 2, sinks: 0}", {n, true, 16}, 2, 1);
    l->advance({0, 0.5, 1});
    const Inputs in = random_inputs(random, 2, heads(n, 2, 1));
    const auto chosen = attend_routed(*l, in, false).layout->patterns();
    bool same = true;  // a difference across two choices is no derivative
    const GradcheckResult result = gradcheck_leaves(
        [&] {
          const Routed r = attend_routed(*l, in, false);
          same = same && r.layout->patterns() == chosen;
          return r.o;
        },
        leaves_of(*l), {.max_elements = 12});
    if (!same) continue;
    EXPECT_LE(result.worst, 1e-6) << result.where;
  }
}

// In training, rows try tiles that they were not given: with gate 0, so that nothing changes for them, and
// alone.
TEST(BlockTopk, TriesTilesWithoutUsingThem) {
  Random random(test_seed(), 13);
  const int64_t n = 160;
  const auto l = layer("block_topk: {topk: 1, sinks: 0, parts: 4}", {n, true, 16}, 2);
  l->advance({0, 0.5, test_seed()});
  const Inputs in = random_inputs(random, 2, heads(n, 2));
  const Routed plain = attend_routed(*l, in, false), trying = attend_routed(*l, in, true);
  for (int64_t i = 0; i < plain.o.numel(); ++i)
    ASSERT_NEAR(plain.o.value().item(i), trying.o.value().item(i), 1e-12);
  for (int head = 0; head < 4; ++head)
    for (int64_t q = 1; q < 10; ++q) {
      const auto tiles = [&](const Routed& r) {
        const auto& offsets = r.layout->of_head(head).row_offsets;
        return offsets[q + 1] - offsets[q];
      };
      EXPECT_EQ(tiles(trying), std::min(tiles(plain) + 1, static_cast<std::int32_t>(q + 1)));
    }
  const auto other = layer("block_topk: {topk: 1, sinks: 0, parts: 4, explore: 0}", {n, true, 16}, 2);
  other->advance({0, 0.5, test_seed()});
  EXPECT_EQ(*attend_routed(*other, in, true).layout, *attend_routed(*other, in, false).layout);
}

// Row 150 needs what tile 3 holds, and begins with an eye on another: trying tells the router.
TEST(BlockTopk, LearnsOfATileThatItDidNotChoose) {
  Random random(test_seed(), 14);
  const int64_t n = 160, D = 8;
  const auto l = layer("block_topk: {topk: 2, sinks: 0, parts: 2}", {n, true, 16}, 1);
  Inputs in = random_inputs(random, 1, heads(n, 1));
  for (Var* x : {&in.q, &in.k, &in.v}) ops::scale_in_place(x->value(), 0.01);
  for (int64_t d = 0; d < D; ++d) in.q.value().data<double>()[150 * D + d] = 1;
  for (int64_t r = 0; r < 160; ++r) {
    if (r / 16 == 3) in.k.value().data<double>()[r * D] = 6;
    if (r / 16 == 6) in.k.value().data<double>()[r * D + 1] = 7;  // looks better
    in.v.value().data<double>()[r * D] = r / 16 == 3 ? 1 : 0;
  }
  Tensor wish = Tensor::zeros({1, n, 1, D}, DType::f64);
  wish.data<double>()[150 * D] = -1;  // of the loss by o
  double first = 0, gain = 0;
  for (int step = 0; step < 400; ++step) {
    l->advance({step, 0.5, test_seed()});
    const Routed r = attend_routed(*l, in, true);
    for (Var& w : leaves_of(*l)) w.zero_grad();
    backward(r.o, wish.clone());
    for (Var& w : leaves_of(*l)) ops::add_in_place(w.value(), ops::scale(Var(w.grad()), -10).value());
    const double seen = attend_routed(*l, in, false).o.value().item(150 * D);
    if (step == 0) first = seen;
    if (step >= 300) gain = std::max(gain, seen);  // the threshold comes and goes
  }
  EXPECT_LT(first, 0.1);
  EXPECT_GT(gain, first + 0.2);
}

TEST(BlockTopk, FindsTheTileThatHoldsTheKey) {
  Random random(test_seed(), 9);
  const int64_t n = 160, D = 8;
  const auto l = layer("block_topk: {topk: 1, sinks: 0}", {n, true, 16}, 1);
  l->advance({0, 0.5, 1});
  Inputs in = random_inputs(random, 1, heads(n, 1));
  for (Var* x : {&in.q, &in.k}) ops::scale_in_place(x->value(), 0.01);
  // Row 150, of tile 9, asks for what tile 3 holds; rows before it ask for nothing much.
  for (int64_t d = 0; d < D; ++d) {
    in.q.value().data<double>()[150 * D + d] = 2;
    for (int64_t r = 48; r < 64; ++r) in.k.value().data<double>()[r * D + d] = 2;
  }
  attend_routed(*l, in, true);
  for (int step = 1; step < 40; ++step) {  // the threshold finds its place
    l->advance({step, 0.5, 1});
    attend_routed(*l, in, true);
  }
  const Routed r = attend_routed(*l, in, false);
  const TileLayout& layout = *r.layout;
  EXPECT_TRUE(layout.allows(0, 150, 50));
  EXPECT_TRUE(layout.allows(0, 159, 50));
}

TEST(BlockTopk, ItsThresholdFollowsWhatIsToBeWanted) {
  constexpr int64_t n = 640, query_tiles = 40, topk = 8;
  for (const double wanted : {0.125, 0.375}) {
    Random random(test_seed(), 17);
    const auto l =
        layer(fmt::format("block_topk: {{topk: {}, sinks: 0, explore: 0, wanted: {}}}", topk, wanted),
              {n, true, 16}, 1);
    const Inputs in = seeking(random_inputs(random, 1, heads(n, 1)));
    double chosen = 0;
    constexpr int kSteps = 120, kCounted = 20;
    for (int step = 0; step < kSteps; ++step) {
      l->advance({step, 0.5, 1});
      const Routed r = attend_routed(*l, in, true);
      if (step >= kSteps - kCounted)
        chosen += static_cast<double>(r.layout->of_head(0).tiles() - query_tiles) / kCounted;
    }
    // A query tile may want more than there are places, and the first ones have few to choose from.
    EXPECT_NEAR(chosen / query_tiles, wanted * topk, 0.2 * wanted * topk) << wanted;
  }
}

TEST(BlockTopk, HardensToWhatItChoseMost) {
  Random random(test_seed(), 10);
  const auto l = layer("block_topk: {topk: 2, sinks: 1, harden: 0.9, tiles: 60}", {160, true, 16}, 2, 1);
  EXPECT_FALSE(l->can_harden());
  l->advance({0, 0.5, 1});
  EXPECT_TRUE(l->can_harden());
  const Inputs in = random_inputs(random, 1, heads(160, 2, 1));
  attend_routed(*l, in, true);
  l->advance({1, 0.95, 1});
  ASSERT_TRUE(l->is_static());
  const LayoutPtr layout = l->connect(160, true).layout;
  EXPECT_EQ(layout->of_head(0).tiles() + layout->of_head(1).tiles(), 60);
  const auto b = layer("block_topk: {topk: 2, sinks: 1, harden: 0.9, tiles: 60}", {160, true, 16}, 2, 1);
  b->load_state(l->state(), 1);
  EXPECT_EQ(*b->connect(160, true).layout, *layout);
}

TEST(BlockTopk, NeedsWholeKvGroupsAndEqualParts) {
  EXPECT_NE(message([&] {
              layer("heads: [{count: 1, pattern: full}, {count: 3, pattern: {block_topk: {topk: 1}}}]",
                    {64, true, 16}, 4, 2);
            }).find("block_topk routes whole kv groups"),
            std::string::npos);
  EXPECT_NE(message([&] {
              layer("block_topk: {parts: 3}", {64, true, 16}, 2);
            }).find("block_topk cannot cut a tile of 16 into 3 parts"),
            std::string::npos);
}

}  // namespace
}  // namespace filigree
