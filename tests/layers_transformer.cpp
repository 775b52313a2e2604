#include <gtest/gtest.h>

#include "core/ops.h"
#include "core/parallel.h"
#include "layers/flops.h"
#include "layers/transformer.h"
#include "tests/layers_models.h"

namespace filigree {
namespace {

std::vector<std::string> names(Module& module) {
  std::vector<std::string> all;
  module.visit(
      [&](Parameter& p) { all.push_back(p.name + " " + p.var.shape().str() + (p.decay ? " decay" : "")); });
  return all;
}

using Names = std::vector<std::string>;

TEST(Transformer, NamesTheParametersOfGpt2) {
  ModelConfig c = small_config();
  c.n_layers = 1;
  Transformer model(c, 1);
  EXPECT_EQ(names(model),
            (Names{"token_embedding.weight [11, 12] decay", "position_embedding.weight [40, 12] decay",
                   "blocks.0.attention_norm.weight [12]", "blocks.0.attention_norm.bias [12]",
                   "blocks.0.attention.qkv.weight [36, 12] decay", "blocks.0.attention.qkv.bias [36]",
                   "blocks.0.attention.out.weight [12, 12] decay", "blocks.0.attention.out.bias [12]",
                   "blocks.0.mlp_norm.weight [12]", "blocks.0.mlp_norm.bias [12]",
                   "blocks.0.mlp.up.weight [20, 12] decay", "blocks.0.mlp.up.bias [20]",
                   "blocks.0.mlp.down.weight [12, 20] decay", "blocks.0.mlp.down.bias [12]",
                   "final_norm.weight [12]", "final_norm.bias [12]"}));
  EXPECT_NE(model.parameter_table().find("blocks.0.attention.qkv.weight   [36, 12]          432\n"),
            std::string::npos)
      << model.parameter_table();
}

TEST(Transformer, NamesTheParametersOfLlamaAndOfEncoders) {
  ModelConfig c = small_config();
  c.n_layers = 1;
  c.n_heads = 6;
  c.n_kv_heads = 2;
  c.head_dim = 4;
  c.norm = NormKind::rms_norm;
  c.activation = Activation::swiglu;
  c.positions = Positions::rope;
  c.bias = false;
  c.tied_embeddings = false;
  Transformer llama(c, 1);
  const Names body = {"token_embedding.weight [11, 12] decay",
                      "blocks.0.attention_norm.weight [12]",
                      "blocks.0.attention.qkv.weight [40, 12] decay",
                      "blocks.0.attention.out.weight [12, 24] decay",
                      "blocks.0.mlp_norm.weight [12]",
                      "blocks.0.mlp.gate.weight [20, 12] decay",
                      "blocks.0.mlp.up.weight [20, 12] decay",
                      "blocks.0.mlp.down.weight [12, 20] decay",
                      "final_norm.weight [12]"};
  const auto with = [&](const Names& tail) {
    Names all = body;
    all.insert(all.end(), tail.begin(), tail.end());
    return all;
  };
  EXPECT_EQ(names(llama), with({"head.weight [11, 12] decay"}));

  c.type = ModelType::encoder_mlm;
  c.tied_embeddings = true;
  Transformer mlm(c, 1);
  EXPECT_EQ(names(mlm), with({"mlm.dense.weight [12, 12] decay", "mlm.dense.bias [12]",
                              "mlm.norm.weight [12]", "head.bias [11]"}));

  c.type = ModelType::encoder_classifier;
  c.n_classes = 3;
  Transformer classifier(c, 1);
  EXPECT_EQ(names(classifier), with({"head.weight [3, 12] decay", "head.bias [3]"}));
}

TEST(Transformer, EveryNameHasItsOwnRandomSite) {
  ModelConfig c = small_config();
  c.n_layers = 200;
  Transformer model(c, 1, Device::meta());
  std::map<std::uint32_t, std::string> sites;
  const auto add = [&](const std::string& name) {
    EXPECT_TRUE(sites.emplace(random_site(name), name).second) << name << " " << sites[random_site(name)];
  };
  add("embedding.dropout");
  for (int i = 0; i < c.n_layers; ++i) {
    add(fmt::format("blocks.{}.attention.dropout", i));
    add(fmt::format("blocks.{}.mlp.dropout", i));
  }
  for (Parameter* p : model.parameters()) add(p->name);
}

struct Moments {
  double mean = 0, deviation = 0;
};
Moments moments(const Tensor& t) {
  Moments m;
  const auto n = static_cast<double>(t.numel());
  for (std::int64_t i = 0; i < t.numel(); ++i) m.mean += t.item(i) / n;
  for (std::int64_t i = 0; i < t.numel(); ++i) m.deviation += (t.item(i) - m.mean) * (t.item(i) - m.mean) / n;
  m.deviation = std::sqrt(m.deviation);
  return m;
}

TEST(Transformer, StartsAsGpt2Does) {
  ModelConfig c = small_config();
  c.dim = 96;
  c.ffn_dim = 384;
  c.vocab_size = 257;
  c.n_layers = 8;
  Transformer model(c, test_seed());
  for (Parameter* p : model.parameters()) {
    const Moments m = moments(p->var.value());
    const bool residual = p->name.ends_with("out.weight") || p->name.ends_with("down.weight");
    const bool matrix = p->var.rank() == 2;
    const double deviation = matrix ? residual ? 0.02 / 4 : 0.02 : 0;
    const double expected_mean = p->name.ends_with("norm.weight") ? 1 : 0;
    const double root = std::sqrt(static_cast<double>(p->var.numel()));
    EXPECT_NEAR(m.mean, expected_mean, 5 * deviation / root + 1e-12) << p->name;
    EXPECT_NEAR(m.deviation, deviation, 5 * deviation / root + 1e-12) << p->name;
  }
}

TEST(Transformer, InitialValuesDependOnSeedAndNameOnly) {
  ModelConfig c = small_config();
  Transformer a(c, 5), wide(c, 5, Device::cpu(), DType::f64), other(c, 6);
  c.n_layers = 1;
  c.activation = Activation::swiglu;
  Transformer shallow(c, 5);
  const auto find = [](Module& m, const std::string& name) {
    Tensor found;
    m.visit([&](Parameter& p) { found = p.name == name ? p.var.value() : found; });
    return found;
  };
  const std::string qkv = "blocks.0.attention.qkv.weight";
  EXPECT_TRUE(same_bits(find(a, qkv), find(shallow, qkv)));
  EXPECT_TRUE(same_bits(find(a, qkv), find(wide, qkv).to(DType::f32)));
  EXPECT_FALSE(same_bits(find(a, qkv), find(other, qkv)));
  EXPECT_FALSE(same_bits(find(a, qkv), find(a, "blocks.1.attention.qkv.weight")));
}

TEST(Transformer, NormalDrawsAreNormal) {
  Tensor x = Tensor::empty({400003});
  fill_normal(x, 2, {test_seed(), 1, 0});
  const Moments m = moments(x);
  EXPECT_NEAR(m.mean, 0, 0.02);
  EXPECT_NEAR(m.deviation, 2, 0.015);
  double beyond = 0, lag = 0;  // P(|x| > 2 sigma) = 0.0455; neighbours do not correlate
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    beyond += std::abs(x.item(i)) > 4 ? 1 : 0;
    lag += i > 0 ? x.item(i) * x.item(i - 1) / 4 : 0;
  }
  EXPECT_NEAR(beyond / 400003, 0.0455, 0.002);
  EXPECT_NEAR(lag / 400003, 0, 0.01);
  EXPECT_TRUE(ops::all_finite(x));
}

// --- training steps ---

struct StepResult {
  Tensor loss;
  std::vector<Tensor> grads;
};

StepResult run_step(Transformer& model, const ModelInput& input, const Tensor& targets,
                    const ForwardContext& context) {
  model.visit([](Parameter& p) { p.var.zero_grad(); });
  const Var loss = model.loss(input, targets, context);
  backward(loss);
  StepResult result{loss.value(), {}};
  model.visit([&](Parameter& p) { result.grads.push_back(p.var.grad()); });
  return result;
}

void expect_same_bits(const StepResult& a, const StepResult& b) {
  EXPECT_TRUE(same_bits(a.loss, b.loss)) << a.loss.item() << " " << b.loss.item();
  ASSERT_EQ(a.grads.size(), b.grads.size());
  for (std::size_t i = 0; i < a.grads.size(); ++i) {
    ASSERT_TRUE(a.grads[i].defined());
    EXPECT_TRUE(same_bits(a.grads[i], b.grads[i])) << "gradient " << i;
  }
}

ModelInput random_input(Random& random, const ModelConfig& config, std::int64_t batch, std::int64_t n) {
  ModelInput input;
  input.tokens = random.integers({batch, n}, 0, config.vocab_size - 1);
  return input;
}

TEST(Transformer, CheckpointingChangesNoBit) {
  Random random(test_seed(), 21);
  ModelConfig c = small_config();
  c.dropout = 0.25;
  const ModelInput input = random_input(random, c, 3, 37);
  const Tensor targets = random.integers({3, 37}, 0, 10);
  const ForwardContext context{.training = true, .seed = 9, .step = 4};
  const LayerPatternsPtr patterns = make_patterns(c, 37, "{local: {window: 9}}");
  Transformer plain = make_model(c, 3, patterns);
  c.activation_checkpointing = true;
  Transformer checkpointed = make_model(c, 3, patterns);
  const StepResult expected = run_step(plain, input, targets, context);
  expect_same_bits(run_step(checkpointed, input, targets, context), expected);

  ForwardContext later = context;
  later.step = 5;
  EXPECT_FALSE(same_bits(run_step(plain, input, targets, later).loss, expected.loss))
      << "dropout drew nothing anew";
}

TEST(Transformer, ThreadsChangeNoBit) {
  Random random(test_seed(), 22);
  ModelConfig c = small_config();
  c.dim = 48;
  c.ffn_dim = 200;
  c.max_seq_len = 150;
  c.dropout = 0.1;
  Transformer model = make_model(c, 3, make_patterns(c, 150));
  const ModelInput input = random_input(random, c, 2, 150);
  const Tensor targets = random.integers({2, 150}, 0, 10);
  const ForwardContext context{.training = true, .seed = 9, .step = 4};
  const int before = n_threads();
  set_n_threads(1);
  const StepResult one = run_step(model, input, targets, context);
  set_n_threads(2);
  expect_same_bits(run_step(model, input, targets, context), one);
  set_n_threads(before);
}

TEST(Transformer, DropoutIsOffOutsideTraining) {
  Random random(test_seed(), 23);
  ModelConfig c = small_config();
  const LayerPatternsPtr patterns = make_patterns(c, 20);
  Transformer sure = make_model(c, 3, patterns);
  c.dropout = 0.5;
  Transformer model = make_model(c, 3, patterns);
  const ModelInput input = random_input(random, c, 2, 20);
  const NoGrad no_grad;
  const Tensor expected = sure.forward(input, {}).value();
  EXPECT_TRUE(same_bits(model.forward(input, {}).value(), expected));
  EXPECT_FALSE(same_bits(model.forward(input, {.training = true, .seed = 1, .step = 0}).value(), expected));
}

// --- what sees what ---

TEST(Transformer, DecoderSeesNoFutureToken) {
  Random random(test_seed(), 24);
  for (const Positions p : {Positions::learned, Positions::rope, Positions::alibi, Positions::none}) {
    ModelConfig c = small_config();
    c.positions = p;
    Transformer model = make_model(c, 3, make_patterns(c, 40));
    randomize(model, random);
    ModelInput input = random_input(random, c, 1, 40);
    const NoGrad no_grad;
    const Tensor before = model.logits(input, {}).value().reshape({40, c.vocab_size});
    const std::int64_t changed = random.range(0, 39);
    auto& token = input.tokens.data<std::int32_t>()[changed];
    token = static_cast<std::int32_t>((token + random.range(1, c.vocab_size - 1)) % c.vocab_size);
    const Tensor after = model.logits(input, {}).value().reshape({40, c.vocab_size});
    if (changed > 0) {
      EXPECT_TRUE(same_bits(before.slice(0, changed).clone(), after.slice(0, changed).clone()));
    }
    for (std::int64_t n = changed; n < 40; ++n)
      EXPECT_GT(max_difference(before.slice(n, n + 1), after.slice(n, n + 1)), 0)
          << n << " after " << changed;
  }
}

TEST(Transformer, DocumentsAreIsolated) {
  Random random(test_seed(), 25);
  for (const Positions p : {Positions::rope, Positions::alibi, Positions::none}) {
    ModelConfig c = small_config();
    c.positions = p;
    c.head_dim = 4;
    Transformer model = make_model(c, 3, make_patterns(c, 41), DType::f64);
    randomize(model, random);
    const std::int64_t n = 41, cut = random.range(1, n - 1);
    ModelInput input = random_input(random, c, 1, n);
    input.row_bounds = Tensor::empty({1, n, 2}, DType::i32);
    for (std::int64_t i = 0; i < n; ++i) {
      input.row_bounds.data<std::int32_t>()[2 * i] = static_cast<std::int32_t>(i < cut ? 0 : cut);
      input.row_bounds.data<std::int32_t>()[2 * i + 1] = static_cast<std::int32_t>(i < cut ? cut : n);
    }
    ModelInput alone;
    alone.tokens = input.tokens.reshape({n}).slice(cut, n).clone().reshape({1, n - cut});
    const NoGrad no_grad;
    const Tensor packed = model.logits(input, {}).value().reshape({n, c.vocab_size}).slice(cut, n);
    EXPECT_LT(max_difference(packed, model.logits(alone, {}).value().reshape({n - cut, c.vocab_size})),
              1e-10);
  }
}

TEST(Transformer, ClassifierIgnoresPadding) {
  Random random(test_seed(), 26);
  ModelConfig c = small_config();
  c.type = ModelType::encoder_classifier;
  c.n_classes = 3;
  Transformer model = make_model(c, 3, make_patterns(c, 33), DType::f64);
  randomize(model, random);
  const std::int64_t n = 33, real = random.range(1, n - 1);
  ModelInput input = random_input(random, c, 1, n);
  input.token_bounds = Tensor::of({1, 2}, std::vector<std::int32_t>{0, static_cast<std::int32_t>(real)});
  ModelInput alone;
  alone.tokens = input.tokens.reshape({n}).slice(0, real).clone().reshape({1, real});
  const NoGrad no_grad;
  const Tensor padded = model.logits(input, {}).value();
  EXPECT_EQ(padded.shape(), (Shape{1, 3}));
  EXPECT_LT(max_difference(padded, model.logits(alone, {}).value()), 1e-10);
}

TEST(Transformer, LogitsLossAndOnePositionAgree) {
  Random random(test_seed(), 27);
  for (const ModelType type : {ModelType::decoder, ModelType::encoder_mlm, ModelType::encoder_classifier}) {
    ModelConfig c = small_config();
    c.type = type;
    c.n_classes = type == ModelType::encoder_classifier ? 5 : 0;
    const bool classifier = type == ModelType::encoder_classifier;
    Transformer model = make_model(c, 3, make_patterns(c, 18), DType::f64);
    randomize(model, random);
    const std::int64_t batch = 3, n = 18, rows = classifier ? batch : batch * n;
    const ModelInput input = random_input(random, c, batch, n);
    Tensor targets = random.integers(classifier ? Shape{batch} : Shape{batch, n}, 0, 4);
    targets.data<std::int32_t>()[1] = ops::kIgnoreIndex;
    const NoGrad no_grad;
    const Var logits = model.logits(input, {});
    const std::int64_t width = logits.dim(-1);
    const Var flat = ops::reshape(logits, {rows, width});
    const double expected = ops::cross_entropy(flat, targets.reshape({rows})).value().item();
    Tensor row_losses;
    EXPECT_NEAR(model.loss(input, targets, {}).value().item(), expected, 1e-10);
    EXPECT_NEAR(model
                    .loss(input, targets, {},
                          {.denominator = Tensor::full({1}, 7, DType::f64), .row_losses = &row_losses})
                    .value()
                    .item(),
                expected * static_cast<double>(rows - 1) / 7, 1e-10);
    ASSERT_EQ(row_losses.shape(), (Shape{rows}));
    EXPECT_EQ(row_losses.item(1), 0);
    if (classifier) {
      EXPECT_THROW(model.logits_at(input, 0, {}), Error);
      continue;
    }
    const Tensor at = model.logits_at(input, 7, {}).value();
    for (std::int64_t b = 0; b < batch; ++b)
      EXPECT_LT(max_difference(at.slice(b, b + 1), flat.value().slice(b * n + 7, b * n + 8)), 1e-12);
    EXPECT_THROW(model.logits_at(input, n, {}), Error);
  }
}

TEST(Transformer, RefusesInputThatDoesNotFit) {
  Random random(test_seed(), 28);
  const ModelConfig c = small_config();
  Transformer model = make_model(c, 3, make_patterns(c, 20));
  EXPECT_THROW(model.forward(random_input(random, c, 1, 41), {}), Error);  // longer than max_seq_len
  EXPECT_THROW(model.forward({}, {}), Error);
  ModelConfig other = c;
  other.n_layers = 1;
  EXPECT_THROW(make_model(c, 3, make_patterns(other, 20)), Error);
  other = c;
  other.n_heads = 2;
  EXPECT_THROW(make_model(c, 3, make_patterns(other, 20)), Error);
  other = c;
  other.type = ModelType::encoder_mlm;
  EXPECT_THROW(make_model(c, 3, make_patterns(other, 20)), Error);  // not causal
  const LayoutPtr of_another_length = make_layout("{full: {}}", 21, 3, true);
  const Transformer odd =
      model.attending_with({connectivity_of(of_another_length), connectivity_of(of_another_length)});
  EXPECT_THROW(odd.forward(random_input(random, c, 1, 20), {}), Error);
}

TEST(ModelConfig, RefusesWhatDoesNotFit) {
  const auto with = [](const std::function<void(ModelConfig&)>& change) {
    ModelConfig c = small_config();
    change(c);
    return c;
  };
  EXPECT_NO_THROW(resolved(small_config()));
  EXPECT_THROW(resolved(with([](auto& c) { c.dim = 13; })), Error);
  EXPECT_THROW(resolved(with([](auto& c) { c.n_kv_heads = 2; })), Error);
  EXPECT_THROW(resolved(with([](auto& c) { c.n_layers = 0; })), Error);
  EXPECT_THROW(resolved(with([](auto& c) { c.vocab_size = 0; })), Error);
  EXPECT_THROW(resolved(with([](auto& c) { c.dropout = 1; })), Error);
  EXPECT_THROW(resolved(with([](auto& c) { c.type = ModelType::encoder_classifier; })), Error);
  EXPECT_THROW(resolved(with([](auto& c) {
                 c.head_dim = 3;
                 c.positions = Positions::rope;
               })),
               Error);
  const ModelConfig swiglu = resolved(with([](auto& c) {
    c.ffn_dim = 0;
    c.activation = Activation::swiglu;
    c.dim = 384;
  }));
  EXPECT_EQ(swiglu.ffn_dim, 1024);
  EXPECT_EQ(swiglu.head_dim, 128);
  EXPECT_EQ(swiglu.n_kv_heads, 3);
}

TEST(Transformer, NamesTheModuleThatIsNotFinite) {
  Random random(test_seed(), 29);
  const ModelConfig c = small_config();
  const ModelInput input = random_input(random, c, 1, 12);
  const auto poisoned = [&](const std::string& name) {
    Transformer model = make_model(c, 3, make_patterns(c, 12));
    model.visit([&](Parameter& p) {
      if (p.name == name) p.var.value().data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
    });
    return model.find_non_finite(input, {});
  };
  EXPECT_EQ(poisoned(""), "");
  EXPECT_EQ(poisoned("token_embedding.weight"), "token_embedding");
  EXPECT_EQ(poisoned("blocks.0.mlp.up.weight"), "blocks.0.mlp");
  EXPECT_EQ(poisoned("blocks.1.attention.out.bias"), "blocks.1.attention");
  EXPECT_EQ(poisoned("final_norm.bias"), "final_norm");
}

TEST(Transformer, RunsOnMetaWithTheMemoryOfTheCpu) {
  Random random(test_seed(), 30);
  ModelConfig c = small_config();
  c.dim = 48;
  c.max_seq_len = 200;
  ModelInput input = random_input(random, c, 2, 200);
  const Tensor targets = random.integers({2, 200}, 0, 10);
  const auto peak = [&](Device device) {
    Allocator& memory = allocator(device);
    ModelInput there = input;
    there.tokens = input.tokens.to(device);
    const Tensor wanted = targets.to(device);
    Transformer model = make_model(c, 3, make_patterns(c, 200, "{local: {window: 20}}"), DType::f32, device);
    const std::int64_t before = memory.statistics().in_use;
    memory.reset_peak();
    backward(model.loss(there, wanted, {.training = true, .seed = 1, .step = 0}));
    return memory.statistics().peak_in_use - before;
  };
  const std::int64_t cpu = peak(Device::cpu()), meta = peak(Device::meta());
  EXPECT_GT(cpu, 0);
  EXPECT_NEAR(static_cast<double>(meta), static_cast<double>(cpu), 0.05 * static_cast<double>(cpu));
}

TEST(Flops, FollowTheFormula) {
  ModelConfig c = small_config();
  c.n_layers = 3;
  // per layer: qkv 12 x 36, out 12 x 12, mlp 2 x 12 x 20; head 11 x 12
  EXPECT_EQ(matmul_parameters(c), 3 * (432 + 144 + 480) + 132);
  const std::vector<LayoutPtr> layouts = make_patterns(c, 40, "{local: {window: 4}}")->layouts(40);
  const double pairs = 40 * 4 - (3 + 2 + 1);  // of one head
  EXPECT_DOUBLE_EQ(model_flops_per_token(c, layouts), 6.0 * 3300 + 3 * 12 * 12 * pairs / 40);
}

}  // namespace
}  // namespace filigree
