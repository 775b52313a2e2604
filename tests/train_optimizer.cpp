#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/ops.h"
#include "layers/transformer.h"
#include "tests/gradcheck.h"
#include "tests/layers_models.h"
#include "train/run/optimizer.h"

namespace filigree {
namespace {

// A matrix with decay, a bias without, and a parameter that learns ten times as fast.
struct Parameters {
  std::vector<Parameter> all;
  explicit Parameters(Random& random, DType type = DType::f64) {
    all.push_back({"w", Var(random.normal({5, 7}, type), true), true, 1});
    all.push_back({"b", Var(random.normal({33}, type), true), false, 1});
    all.push_back({"fast", Var(random.normal({3}, type), true), false, 10});
  }
  std::vector<Parameter*> pointers() {
    std::vector<Parameter*> p;
    for (Parameter& parameter : all) p.push_back(&parameter);
    return p;
  }
  // Gives every parameter the gradient `grads[i]`.
  void backward_with(const std::vector<Tensor>& grads) {
    for (std::size_t i = 0; i < all.size(); ++i) backward(ops::scale(all[i].var, 1), grads[i].clone());
  }
};

double gradient_norm(const Optimizer& optimizer) {
  return std::sqrt(optimizer.sum_of_squares().item());
}

void take_step(Optimizer& optimizer, double lr, double clip = 0) {
  const auto rates = optimizer.next_rates(lr);
  optimizer.step({Tensor::of<double>({optimizer.n_rates()}, rates), optimizer.sum_of_squares(),
                  Tensor::zeros({1}, DType::u32), clip});
}

TrainConfig config(OptimizerType type, double momentum = 0) {
  TrainConfig c;
  c.optimizer = type;
  c.betas = {0.8, 0.9};
  c.eps = 1e-3;
  c.momentum = momentum;
  c.weight_decay = 0.25;
  return c;
}

std::vector<Tensor> random_gradients(Random& random, const Parameters& p) {
  std::vector<Tensor> grads;
  for (const Parameter& parameter : p.all)
    grads.push_back(random.normal(parameter.var.shape(), parameter.var.dtype()));
  return grads;
}

TEST(Optimizer, AdamWFollowsThePaper) {
  Random random(test_seed(), 41);
  Parameters p(random);
  Optimizer optimizer(config(OptimizerType::adamw), p.pointers());
  std::vector<std::vector<double>> w, m, v;
  for (const Parameter& q : p.all) {
    const auto values = q.var.value().values<double>();
    w.emplace_back(values.begin(), values.end());
    m.emplace_back(values.size(), 0.0);
    v.emplace_back(values.size(), 0.0);
  }
  for (int t = 1; t <= 5; ++t) {
    const double lr = 0.01 * t;
    const std::vector<Tensor> grads = random_gradients(random, p);
    p.backward_with(grads);
    const double clip = 0.5 * gradient_norm(optimizer), scale = 0.5;
    take_step(optimizer, lr, clip);
    optimizer.zero_grad();
    for (std::size_t i = 0; i < p.all.size(); ++i)
      for (std::size_t e = 0; e < w[i].size(); ++e) {
        const double g = scale * grads[i].item(static_cast<std::int64_t>(e));
        const double rate = i == 2 ? 10 * lr : lr, decay = i == 0 ? 0.25 : 0;
        m[i][e] = 0.8 * m[i][e] + 0.2 * g;
        v[i][e] = 0.9 * v[i][e] + 0.1 * g * g;
        const double step =
            m[i][e] / (1 - std::pow(0.8, t)) / (std::sqrt(v[i][e] / (1 - std::pow(0.9, t))) + 1e-3);
        w[i][e] -= rate * (step + decay * w[i][e]);
        ASSERT_NEAR(p.all[i].var.value().item(static_cast<std::int64_t>(e)), w[i][e], 1e-12) << t << " " << i;
      }
  }
  EXPECT_EQ(optimizer.steps(), 5);
}

TEST(Optimizer, SgdFollowsTheFormula) {
  Random random(test_seed(), 42);
  for (const double momentum : {0.0, 0.7}) {
    Parameters p(random);
    Optimizer optimizer(config(OptimizerType::sgd, momentum), p.pointers());
    EXPECT_EQ(optimizer.state().size(), momentum == 0 ? 0u : 3u);
    std::vector<double> w, u(35, 0.0);
    for (const double x : p.all[0].var.value().values<double>()) w.push_back(x);
    for (int t = 0; t < 4; ++t) {
      const std::vector<Tensor> grads = random_gradients(random, p);
      p.backward_with(grads);
      take_step(optimizer, 0.1, 0.25 * gradient_norm(optimizer));
      optimizer.zero_grad();
      for (std::size_t e = 0; e < w.size(); ++e) {
        u[e] = momentum * u[e] + 0.25 * grads[0].item(static_cast<std::int64_t>(e)) + 0.25 * w[e];
        w[e] -= 0.1 * u[e];
        ASSERT_NEAR(p.all[0].var.value().item(static_cast<std::int64_t>(e)), w[e], 1e-12);
      }
    }
  }
}

ParameterGroup group(const OptimizerConfig& like, const std::vector<std::string>& names, double lr_factor) {
  ParameterGroup g;
  static_cast<OptimizerConfig&>(g) = like;
  for (const std::string& name : names) g.names.push_back(YamlNode::make(name));
  g.lr_factor = lr_factor;
  return g;
}

// Each parameter ends as it does where all have the optimizer of its group; the norm is that of all.
TEST(Optimizer, GroupsAreOptimizersOfTheirOwn) {
  TrainConfig grouped = config(OptimizerType::adamw), momentum = config(OptimizerType::sgd, 0.5),
              other = config(OptimizerType::adamw);
  momentum.weight_decay = 0.5;
  other.betas = {0.5, 0.75};
  grouped.groups = {group(momentum, {"w"}, 2), group(other, {"f?st", "*"}, 1)};
  const auto trained = [&](const TrainConfig& c, double factor) {
    Random random(test_seed(), 48);
    Parameters p(random);
    Optimizer optimizer(c, p.pointers());
    for (int t = 0; t < 3; ++t) {
      p.backward_with(random_gradients(random, p));
      take_step(optimizer, 0.1 * factor, 0.5 * gradient_norm(optimizer));
      optimizer.zero_grad();
    }
    return p;
  };
  const Parameters p = trained(grouped, 1), by_momentum = trained(momentum, 2), by_other = trained(other, 1);
  EXPECT_TRUE(same_bits(p.all[0].var.value(), by_momentum.all[0].var.value()));
  for (const std::size_t i : {1, 2})
    EXPECT_TRUE(same_bits(p.all[i].var.value(), by_other.all[i].var.value())) << i;

  Random random(test_seed(), 49);
  Parameters some(random);
  grouped.groups = {group(momentum, {"w"}, 1), group(other, {"fast"}, 1)};
  const Optimizer optimizer(grouped, some.pointers());
  std::vector<std::string> names;
  for (const auto& [name, tensor] : optimizer.state()) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"optimizer.m.w", "optimizer.m.b", "optimizer.v.b",
                                             "optimizer.m.fast", "optimizer.v.fast"}));
}

TEST(Optimizer, AGroupOfNothingIsRefused) {
  Random random(test_seed(), 50);
  Parameters p(random);
  p.all[0].name = "blocks.0.attention.qkv.weight";
  const auto message = [&](std::vector<ParameterGroup> groups) {
    TrainConfig c = config(OptimizerType::adamw);
    c.groups = std::move(groups);
    try {
      Optimizer(c, p.pointers());
    } catch (const Error& e) {
      return fmt::format("{} | {}", e.what(), e.hint());
    }
    return std::string("accepted");
  };
  const OptimizerConfig like = config(OptimizerType::adamw);
  EXPECT_NE(message({group(like, {"b", "fats"}, 1)}).find("'fats' names no parameter | did you mean 'fast'?"),
            std::string::npos);
  EXPECT_NE(message({group(like, {"block.*.attention.qkv.weight"}, 1)})
                .find("did you mean 'blocks.*.attention.qkv.weight'?"),
            std::string::npos);
  EXPECT_NE(message({group(like, {"zzzzzzzzzz"}, 1)}).find("--dry-run"), std::string::npos);
  EXPECT_NE(message({group(like, {"*"}, 1), group(like, {"b"}, 1)}).find("'b' names is of earlier groups"),
            std::string::npos);
  EXPECT_EQ(message({group(like, {"b"}, 1), group(like, {"*"}, 1)}), "accepted");
}

TEST(Optimizer, NormAndClipping) {
  Random random(test_seed(), 43);
  Parameters p(random);
  Optimizer optimizer(config(OptimizerType::adamw), p.pointers());
  EXPECT_EQ(gradient_norm(optimizer), 0);  // no gradients yet
  const std::vector<Tensor> grads = random_gradients(random, p);
  p.backward_with(grads);
  double sum = 0;
  for (const Tensor& g : grads)
    for (const double x : g.values<double>()) sum += x * x;
  EXPECT_NEAR(gradient_norm(optimizer), std::sqrt(sum), 1e-12 * std::sqrt(sum));
  // A norm below `clip` leaves gradients alone, as does clip 0.
  for (const double clip : {0.0, 2 * std::sqrt(sum)}) {
    Parameters copy(random);
    for (std::size_t k = 0; k < p.all.size(); ++k) copy.all[k].var.value().copy_from(p.all[k].var.value());
    copy.backward_with(grads);
    Optimizer sgd(config(OptimizerType::sgd), copy.pointers());
    take_step(sgd, 0.1, clip);
    for (std::int64_t k = 0; k < 33; ++k)
      EXPECT_NEAR(copy.all[1].var.value().item(k), p.all[1].var.value().item(k) - 0.1 * grads[1].item(k),
                  1e-14);
  }
}

TEST(Optimizer, ParametersOutsideTheNormAreSummedApart) {
  Random random(test_seed(), 47);
  Parameters p(random);
  Optimizer optimizer(config(OptimizerType::adamw), p.pointers());
  EXPECT_FALSE(optimizer.sum_of_squares(false).defined());  // all are in the norm
  p.all[2].in_norm = false;
  const std::vector<Tensor> grads = random_gradients(random, p);
  p.backward_with(grads);
  double in_norm = 0, others = 0;
  for (std::size_t k = 0; k < 3; ++k)
    for (const double x : grads[k].values<double>()) (k < 2 ? in_norm : others) += x * x;
  EXPECT_NEAR(optimizer.sum_of_squares().item(), in_norm, 1e-12 * in_norm);
  EXPECT_NEAR(optimizer.sum_of_squares(false).item(), others, 1e-12 * others);
}

TEST(Optimizer, NamesTheGradientThatIsNotFinite) {
  Random random(test_seed(), 44);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Parameters p(random);
    Optimizer optimizer(config(OptimizerType::adamw), p.pointers());
    std::vector<Tensor> grads = random_gradients(random, p);
    p.backward_with(grads);
    EXPECT_TRUE(std::isfinite(gradient_norm(optimizer)));
    EXPECT_EQ(optimizer.non_finite_gradient(), "");
    optimizer.zero_grad();
    grads[0].data<double>()[3] = bad;
    grads[1].data<double>()[32] = bad;  // later in the forward pass, so earlier in backward
    p.backward_with(grads);
    EXPECT_FALSE(std::isfinite(gradient_norm(optimizer)));
    EXPECT_EQ(optimizer.non_finite_gradient(), "b");
  }
}

TEST(Optimizer, LeavesParametersWithoutGradientAlone) {
  Random random(test_seed(), 45);
  Parameters p(random);
  const Tensor before = p.all[0].var.value().clone();
  Optimizer optimizer(config(OptimizerType::adamw), p.pointers());
  take_step(optimizer, 0.1);
  EXPECT_TRUE(same_bits(p.all[0].var.value(), before));
}

TEST(Optimizer, ContinuesBitwiseFromItsState) {
  Random random(test_seed(), 46);
  for (const OptimizerType type : {OptimizerType::adamw, OptimizerType::sgd}) {
    Parameters p(random, DType::f32);
    Optimizer optimizer(config(type, 0.9), p.pointers());
    p.backward_with(random_gradients(random, p));
    take_step(optimizer, 0.1);
    optimizer.zero_grad();

    Parameters copy(random, DType::f32);
    for (std::size_t i = 0; i < p.all.size(); ++i) copy.all[i].var.value().copy_from(p.all[i].var.value());
    Optimizer resumed(config(type, 0.9), copy.pointers());
    const auto from = optimizer.state();
    auto to = resumed.state();
    ASSERT_EQ(from.size(), type == OptimizerType::adamw ? 6u : 3u);
    EXPECT_EQ(from[0].first, "optimizer.m.w");
    for (std::size_t i = 0; i < from.size(); ++i) {
      EXPECT_EQ(from[i].first, to[i].first);
      to[i].second.copy_from(from[i].second);
    }
    resumed.set_steps(optimizer.steps());

    const std::vector<Tensor> grads = random_gradients(random, p);
    p.backward_with(grads);
    copy.backward_with(grads);
    take_step(optimizer, 0.05, 0.5);
    take_step(resumed, 0.05, 0.5);
    for (std::size_t i = 0; i < p.all.size(); ++i)
      EXPECT_TRUE(same_bits(p.all[i].var.value(), copy.all[i].var.value()));
  }
}

// A decoder learns 64 characters by heart.
TEST(Optimizer, TrainsATinyDecoderToMemory) {
  const std::string text = "In the beginning the Universe was created. This made many angry";
  ASSERT_EQ(text.size(), 63u);
  ModelConfig c;
  c.dim = 32;
  c.n_layers = 2;
  c.n_heads = 2;
  c.vocab_size = 128;
  c.max_seq_len = 64;
  Transformer model = make_model(c, 1, make_patterns(c, 64));
  ModelInput input;
  std::vector<std::int32_t> tokens{0}, targets;
  for (const char ch : text) tokens.push_back(ch), targets.push_back(ch);
  targets.push_back(0);
  input.tokens = Tensor::of({1, 64}, tokens);
  Optimizer optimizer(config(OptimizerType::adamw), model.parameters());
  double loss = 0;
  for (std::uint32_t step = 0; step < 120; ++step) {
    const Var l =
        model.loss(input, Tensor::of({1, 64}, targets), {.training = true, .seed = 1, .step = step});
    loss = l.value().item();
    if (step == 0) {
      EXPECT_NEAR(loss, std::log(128.0), 0.3);  // nothing is known yet
    }
    backward(l);
    take_step(optimizer, 1e-2, 1);
    optimizer.zero_grad();
  }
  EXPECT_LT(loss, 0.05);
}

}  // namespace
}  // namespace filigree
