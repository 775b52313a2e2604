// A way to attend that is neither gated nor routed is one class and its pattern: it trains, is stored,
// hardens and decodes, and nothing else knows of it.
#include <gtest/gtest.h>

#include <map>

#include "layers/decoder_cache.h"
#include "tests/layers_models.h"
#include "tests/temporary_folder.h"
#include "train/record/checkpoint.h"
#include "train/run/step.h"

namespace filigree {
namespace {

constexpr std::int64_t kN = 48;

// A window and a stride take turns, step by step; hardened, the window stays.
class Alternating final : public Connectivity {
 public:
  explicit Alternating(const LearnedHeads& heads) : Connectivity(heads.geometry), heads_(heads) {}

  Connected connect(const Sequences& s) const override { return {layout(s.n, strided_ && !hardened_), {}}; }
  bool learns() const override { return true; }
  void advance(const TrainingStage& stage) override { strided_ = stage.step % 2 == 1; }
  bool is_static() const override { return hardened_; }
  void harden() override { hardened_ = true; }
  LayoutPtr hardened(std::int64_t n) const override { return layout(n, false); }
  ConnectivityState state() const override {
    return {{heads_.name + ".turn", Tensor::of({2}, std::vector<std::int32_t>{strided_, hardened_})}};
  }
  void load_state(const ConnectivityState& state, std::uint64_t) override {
    const Tensor& turn = find_state(state, heads_.name + ".turn");
    strided_ = turn.item(0) != 0;
    hardened_ = turn.item(1) != 0;
  }

 private:
  LayoutPtr layout(std::int64_t n, bool strided) const {
    LayoutPtr& made = layouts_[{n, strided}];
    if (!made)
      made = make_layout(strided ? "{strided: {stride: 5}}" : "{local: {window: 20}}", n, heads_.n_heads,
                         heads_.geometry.causal, heads_.geometry.tile);
    return made;
  }

  LearnedHeads heads_;
  bool strided_ = false, hardened_ = false;
  mutable std::map<std::pair<std::int64_t, bool>, LayoutPtr> layouts_;
};

// For all heads, or for those from the second on.
class AlternatingPattern final : public LearnedPattern {
 public:
  explicit AlternatingPattern(int first) : first_(first) {}
  const LearnedPattern* learned(int head) const override { return head < first_ ? nullptr : this; }
  ConnectivityPtr make(const LearnedHeads& heads, const ParameterFactory&) const override {
    return std::make_shared<Alternating>(heads);
  }

 private:
  int first_;
};

ModelConfig config() {
  ModelConfig c = small_config();
  c.max_seq_len = kN;
  return c;
}

Transformer alternating_model(std::uint64_t seed) {
  std::vector<PatternPtr> layers{std::make_shared<AlternatingPattern>(0),
                                 std::make_shared<AlternatingPattern>(1)};
  return make_model(config(), seed,
                    std::make_shared<const LayerPatterns>(std::move(layers), Geometry{kN, true, 16}, 3));
}

Batch batch_of(const Tensor& tokens) {
  Batch batch;
  batch.inputs = batch.targets = tokens;
  batch.row_bounds = Tensor::zeros({1, kN, 2}, DType::i32);
  for (std::int64_t i = 0; i < kN; ++i) batch.row_bounds.data<std::int32_t>()[2 * i + 1] = kN;
  batch.token_bounds = Tensor::of({1, 2}, std::vector<std::int32_t>{0, kN});
  batch.n_targets = batch.n_tokens = kN;
  return batch;
}

bool same_layouts(const Transformer& a, const Transformer& b) {
  const auto x = a.computed_layouts(), y = b.computed_layouts();
  return std::ranges::equal(x, y, [](const LayoutPtr& l, const LayoutPtr& r) { return *l == *r; });
}

Tensor random_tokens() {
  Random random(test_seed(), 41);
  return random.integers({1, kN}, 0, config().vocab_size - 1);
}

TEST(Connectivity, AnotherKindTrainsAndIsStored) {
  Transformer model = alternating_model(1);
  EXPECT_TRUE(model.learns());
  EXPECT_FALSE(model.patterns_are_static());
  Optimizer optimizer(TrainConfig{}, model.parameters());
  StepOptions options;
  options.steps = 10;
  Stepper stepper(model, optimizer, options);
  const Tensor tokens = random_tokens();
  std::vector<LayoutPtr> before;
  double first = 0, last = 0;
  for (std::int64_t step = 0; step < 4; ++step) {
    stepper.submit({batch_of(tokens)}, step, 1e-2);
    last = stepper.next(true)->loss;
    if (step == 0) first = last;
    const std::vector<LayoutPtr> now = model.computed_layouts();
    for (std::size_t l = 0; l < before.size(); ++l) EXPECT_NE(*now[l], *before[l]) << step;
    before = now;
  }
  EXPECT_LT(last, first);

  const NamedTensors state = pattern_state(model);
  ASSERT_EQ(state.size(), 2u);
  EXPECT_EQ(state[0].first, "blocks.0.pattern.turn");
  EXPECT_EQ(state[1].first, "blocks.1.pattern.1.turn");  // its heads begin at the second
  Transformer other = alternating_model(2);
  EXPECT_FALSE(same_layouts(model, other));
  load_patterns(other, Config{}, state, "here");
  EXPECT_TRUE(same_layouts(model, other));
  EXPECT_NE(error_text(ErrorKind::data, [&] { load_patterns(other, Config{}, {}, "here"); })
                .find("here: the checkpoint lacks blocks.0.pattern.turn"),
            std::string::npos);
}

TEST(Connectivity, AnotherKindHardensAndDecodes) {
  Transformer model = alternating_model(1);
  Random random(test_seed(), 42);
  randomize(model, random);
  const Tensor tokens = random_tokens();
  const NoGrad no_tape;
  const auto logits = [&](const Transformer& of) {
    return of.logits({tokens, {}, {}}, {}).value().reshape({kN, config().vocab_size});
  };
  model.advance({1, 0.1, 1});
  const Tensor learning = logits(model), hardened = logits(model.as_hardened());
  EXPECT_GT(max_difference(learning, hardened), 0);
  for (const Tensor& expected : {learning, hardened}) {
    DecoderCache cache(model, kN, 1);
    const std::int64_t prompt = 19, one[] = {0};
    const Tensor column = tokens.reshape({kN, 1});
    Tensor next = model.begin_text(column.slice(0, prompt).reshape({prompt}), 0, cache);
    for (std::int64_t i = prompt; i < kN; ++i) {
      ASSERT_LT(max_difference(next, expected.slice(i - 1, i)), 1e-4) << i;
      next = model.next_token(column.slice(i, i + 1).reshape({1}), one, cache);
    }
    for (const ConnectivityPtr& layer : model.connectivities()) layer->harden();  // for the second round
    EXPECT_TRUE(model.patterns_are_static());
  }
  EXPECT_TRUE(same_bits(logits(model), hardened));
}

}  // namespace
}  // namespace filigree
