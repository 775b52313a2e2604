// fp64 gradient checks of every layer, and of whole models in every combination of their options.
#include <gtest/gtest.h>

#include "core/ops.h"
#include "core/parallel.h"
#include "tests/layers_models.h"

namespace filigree {
namespace {

constexpr int kShapes = 20;
// Rows of few, nearly equal features make a norm so steep that differences fail, not the gradient; a large
// eps rounds that off.
constexpr double kSmoothEps = 0.1;

class LayersGradcheck : public testing::Test {
 protected:
  // Work this small only waits for a second thread.
  void SetUp() override { set_n_threads(1); }
  void TearDown() override { set_n_threads(0); }
};

ParameterFactory factory() {
  return {test_seed(), Device::cpu(), DType::f64};
}

// The parameters of `module` and the input as leaves of f(x).
testing::AssertionResult check_layer(Module& module, Random& random, const Tensor& input,
                                     const std::function<Var(const Var&)>& f) {
  randomize(module, random);
  const Var x(input, true);
  std::vector<Var> all = leaves(module);
  all.push_back(x);
  return gradients_agree([&] { return f(x); }, all, {.max_elements = 12});
}

TEST_F(LayersGradcheck, Linear) {
  Random random(test_seed(), 1);
  for (int i = 0; i < kShapes; ++i) {
    const std::int64_t in = random.size(1, 9), out = random.size(1, 9);
    Linear layer(factory(), "l", in, out, random.coin(), 0.02);
    const Tensor x = random.normal(random.shape(3, 5).append(in));
    ASSERT_TRUE(check_layer(layer, random, x, [&](const Var& v) { return layer.forward(v); }))
        << x.shape().str();
  }
}

TEST_F(LayersGradcheck, Embedding) {
  Random random(test_seed(), 2);
  for (int i = 0; i < kShapes; ++i) {
    const std::int64_t rows = random.size(1, 9), dim = random.size(1, 9), first = random.range(1, rows);
    Embedding layer(factory(), "e", rows, dim, 0.02);
    const Tensor ids = random.integers(random.shape(2, 6), 0, rows - 1);
    randomize(layer, random);
    ASSERT_TRUE(gradients_agree([&] { return layer.forward(ids, DType::f64); }, leaves(layer)));
    ASSERT_TRUE(gradients_agree([&] { return layer.first_rows(first); }, leaves(layer)));
  }
}

TEST_F(LayersGradcheck, Norm) {
  Random random(test_seed(), 3);
  for (const NormKind kind : {NormKind::layer_norm, NormKind::rms_norm})
    for (int i = 0; i < kShapes; ++i) {
      ModelConfig c = small_config();
      c.norm = kind;
      c.norm_eps = kSmoothEps;
      c.dim = random.size(2, 20);
      c.bias = random.coin();
      Norm layer(factory(), "norm", c);
      const Tensor x = random.normal(random.shape(3, 5).append(c.dim));
      ASSERT_TRUE(check_layer(layer, random, x, [&](const Var& v) { return layer.forward(v); }))
          << x.shape().str();
    }
}

TEST_F(LayersGradcheck, Mlp) {
  Random random(test_seed(), 4);
  for (const Activation a : {Activation::gelu, Activation::gelu_tanh, Activation::silu, Activation::swiglu})
    for (int i = 0; i < kShapes; ++i) {
      ModelConfig c = small_config();
      c.activation = a;
      c.dim = random.size(1, 9);
      c.ffn_dim = random.size(1, 15);
      c.bias = random.coin();
      Mlp layer(factory(), "mlp", c);
      const Tensor x = random.normal({random.size(1, 3), random.size(1, 5), c.dim});
      ASSERT_TRUE(check_layer(layer, random, x, [&](const Var& v) { return layer.forward(v); }))
          << x.shape().str();
    }
}

// Row bounds of random documents that cover [0, n).
Tensor random_documents(Random& random, std::int64_t batch, std::int64_t n) {
  Tensor bounds = Tensor::empty({batch, n, 2}, DType::i32);
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t lo = 0; lo < n;) {
      const std::int64_t hi = random.range(lo + 1, n);
      for (std::int64_t i = lo; i < hi; ++i) {
        bounds.data<std::int32_t>()[(b * n + i) * 2] = static_cast<std::int32_t>(lo);
        bounds.data<std::int32_t>()[(b * n + i) * 2 + 1] = static_cast<std::int32_t>(hi);
      }
      lo = hi;
    }
  return bounds;
}

ModelConfig random_shape(Random& random, ModelConfig c) {
  c.n_kv_heads = static_cast<int>(random.range(1, 2));
  c.n_heads = c.n_kv_heads * static_cast<int>(random.range(1, 3));
  c.head_dim = 2 * random.range(1, 3);
  c.dim = random.size(2, 10);
  c.norm_eps = kSmoothEps;
  c.ffn_dim = random.size(1, 12);
  c.bias = random.coin();
  return c;
}

std::string random_pattern(Random& random) {
  return random.coin() ? "{full: {}}" : fmt::format("{{local: {{window: {}}}}}", random.range(1, 9));
}

TEST_F(LayersGradcheck, AttentionLayer) {
  Random random(test_seed(), 5);
  for (const Positions p : {Positions::rope, Positions::alibi, Positions::none})
    for (int i = 0; i < kShapes; ++i) {
      ModelConfig c = random_shape(random, small_config());
      c.positions = p;
      AttentionLayer layer(factory(), "attention", c);
      const std::int64_t batch = random.size(1, 2), n = random.size(1, 20);
      const ConnectivityPtr seen =
          connectivity_of(make_layout(random_pattern(random), n, c.n_heads, random.coin()));
      Tensor row_bounds;
      if (random.coin()) row_bounds = random_documents(random, batch, n);
      const Tensor x = random.normal({batch, n, c.dim});
      ASSERT_TRUE(check_layer(layer, random, x,
                              [&](const Var& v) { return layer.forward(v, *seen, row_bounds, true); }))
          << x.shape().str() << " heads " << c.n_heads << " kv " << c.n_kv_heads << " D " << c.head_dim;
    }
}

TEST_F(LayersGradcheck, Block) {
  Random random(test_seed(), 6);
  for (int i = 0; i < kShapes; ++i) {
    ModelConfig c = random_shape(random, small_config());
    c.positions = Positions::rope;
    c.dropout = random.coin() ? 0.3 : 0;
    Block block(factory(), "block", c);
    const std::int64_t batch = random.size(1, 2), n = random.size(1, 20);
    const ConnectivityPtr seen = connectivity_of(make_layout(random_pattern(random), n, c.n_heads, true));
    const ForwardContext context{.training = true, .seed = test_seed(), .step = 7};
    const Tensor x = random.normal({batch, n, c.dim});
    const Var branch(random.normal({batch, n, c.dim}));
    const bool alone = random.coin();
    ASSERT_TRUE(check_layer(block, random, x, [&](const Var& v) {
      const Block::Residual out = block.forward({v, alone ? Var{} : branch}, *seen, {}, context);
      return ops::add(out.x, out.branch);
    })) << x.shape().str();
  }
}

// The loss of a model of this config on random input.
testing::AssertionResult check_model(const ModelConfig& config, Random& random) {
  const std::int64_t batch = random.size(1, 2),
                     n = random.size(1, 10) + (random.stream().below(8) == 0 ? 8 : 0);
  Transformer model =
      make_model(config, test_seed(), make_patterns(config, n, random_pattern(random)), DType::f64);
  randomize(model, random);
  ModelInput input;
  input.tokens = random.integers({batch, n}, 0, config.vocab_size - 1);
  const bool classifier = config.type == ModelType::encoder_classifier;
  if (random.coin() && !classifier) input.row_bounds = random_documents(random, batch, n);
  if (random.coin() && classifier) {
    input.token_bounds = Tensor::zeros({batch, 2}, DType::i32);
    for (std::int64_t b = 0; b < batch; ++b)
      input.token_bounds.data<std::int32_t>()[2 * b + 1] = static_cast<std::int32_t>(random.range(1, n));
  }
  Tensor targets = random.integers(classifier ? Shape{batch} : Shape{batch, n}, 0,
                                   (classifier ? config.n_classes : config.vocab_size) - 1);
  if (!classifier && batch * n > 1) targets.data<std::int32_t>()[0] = ops::kIgnoreIndex;
  const ForwardContext context{.training = true, .seed = test_seed(), .step = 3};
  return gradients_agree([&] { return model.loss(input, targets, context); }, leaves(model),
                         {.max_elements = 2});
}

class ModelGradcheck : public LayersGradcheck, public testing::WithParamInterface<ModelType> {};

TEST_P(ModelGradcheck, EveryCombinationOfOptions) {
  Random random(test_seed(), 7);
  for (int bits = 0; bits < 128; ++bits) {
    ModelConfig c = random_shape(random, small_config());
    c.type = GetParam();
    c.vocab_size = random.range(2, 9);
    c.n_classes = c.type == ModelType::encoder_classifier ? random.range(1, 5) : 0;
    c.activation = static_cast<Activation>(bits & 3);
    c.positions = static_cast<Positions>(bits >> 2 & 3);
    c.norm = static_cast<NormKind>(bits >> 4 & 1);
    c.tied_embeddings = bits >> 5 & 1;
    c.activation_checkpointing = bits >> 6 & 1;
    c.n_layers = static_cast<int>(random.range(1, 2));
    c.dropout = random.coin() ? 0.2 : 0;
    ASSERT_TRUE(check_model(c, random)) << "combination " << bits;
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, ModelGradcheck,
                         testing::Values(ModelType::decoder, ModelType::encoder_mlm,
                                         ModelType::encoder_classifier));

}  // namespace
}  // namespace filigree
