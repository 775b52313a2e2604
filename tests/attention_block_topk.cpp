// block_topk: which tiles its router chooses, and what it learns from.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/learned_cases.h"
#include "tests/test_ops.h"

namespace filigree {
namespace {

using namespace test;

// Queries large enough that rows prefer some tiles.
Inputs seeking(Inputs in) {
  ops::scale_in_place(in.q.value(), 8);
  return in;
}

struct Routed {
  LayoutPtr layout;  // of the heads of all sequences
  Var o;             // [B, N, H, D]
};

Routed attend_routed(const Connectivity& l, const Inputs& in, bool training) {
  const Connected c = l.connect({in.q.dim(1), training, in.q, in.k, {}});
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
    ASSERT_TRUE(l->reads_text());
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
      EXPECT_EQ(l->computed()->of_head(head), together.layout->of_head(16 + head));
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
  const LayoutPtr layout = l->connect({160, true}).layout;
  EXPECT_EQ(layout->of_head(0).tiles() + layout->of_head(1).tiles(), 60);
  const auto b = layer("block_topk: {topk: 2, sinks: 1, harden: 0.9, tiles: 60}", {160, true, 16}, 2, 1);
  b->load_state(l->state(), 1);
  EXPECT_EQ(*b->connect({160, true}).layout, *layout);
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
