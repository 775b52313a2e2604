// GPT-2 and Llama written down again with plain loops, to pin the wiring: order of norms and residuals, head
// order in the fused qkv matrix, pairing of rope, sharing of kv heads, which matrix is transposed.
#include <gtest/gtest.h>

#include <map>
#include <numbers>

#include "tests/layers_models.h"

namespace filigree {
namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;  // one per position

struct Weights {
  std::map<std::string, Tensor> tensors;
  explicit Weights(Module& module) {
    module.visit([&](Parameter& p) { tensors[p.name] = p.var.value(); });
  }
  double at(const std::string& name, std::int64_t i) const { return tensors.at(name).data<double>()[i]; }
  double at(const std::string& name, std::int64_t row, std::int64_t column) const {
    return at(name, row * tensors.at(name).dim(1) + column);
  }
};

// Rows [first, first + outputs) of the matrix `name`.weight times x, plus bias if there is one.
Row project(const Weights& w, const std::string& name, const Row& x, std::int64_t first,
            std::int64_t outputs) {
  Row y;
  for (std::int64_t o = first; o < first + outputs; ++o) {
    double sum = w.tensors.contains(name + ".bias") ? w.at(name + ".bias", o) : 0;
    for (std::size_t i = 0; i < x.size(); ++i)
      sum += w.at(name + ".weight", o, static_cast<std::int64_t>(i)) * x[i];
    y.push_back(sum);
  }
  return y;
}

Row layer_norm(const Weights& w, const std::string& name, const Row& x, double eps) {
  const auto n = static_cast<double>(x.size());
  double mean = 0, variance = 0;
  for (const double v : x) mean += v / n;
  for (const double v : x) variance += (v - mean) * (v - mean) / n;
  Row y;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto c = static_cast<std::int64_t>(i);
    y.push_back((x[i] - mean) / std::sqrt(variance + eps) * w.at(name + ".weight", c) +
                w.at(name + ".bias", c));
  }
  return y;
}

Row rms_norm(const Weights& w, const std::string& name, const Row& x, double eps) {
  double square = 0;
  for (const double v : x) square += v * v / static_cast<double>(x.size());
  Row y;
  for (std::size_t i = 0; i < x.size(); ++i)
    y.push_back(x[i] / std::sqrt(square + eps) * w.at(name + ".weight", static_cast<std::int64_t>(i)));
  return y;
}

// Causal softmax attention of one head.
Rows attend(const Rows& q, const Rows& k, const Rows& v) {
  Rows o;
  for (std::size_t i = 0; i < q.size(); ++i) {
    Row p;
    double total = 0;
    for (std::size_t j = 0; j <= i; ++j) {
      double s = 0;
      for (std::size_t d = 0; d < q[i].size(); ++d) s += q[i][d] * k[j][d];
      p.push_back(std::exp(s / std::sqrt(static_cast<double>(q[i].size()))));
      total += p.back();
    }
    Row sum(q[i].size(), 0.0);
    for (std::size_t j = 0; j <= i; ++j)
      for (std::size_t d = 0; d < sum.size(); ++d) sum[d] += p[j] / total * v[j][d];
    o.push_back(sum);
  }
  return o;
}

void add_to(Row& x, const Row& y) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

// x (cos, cos) + rotate_half(x) (sin, sin) with rotate_half(a, b) = (-b, a), as in transformers'
// modeling_llama.
Row rotate(const Row& x, std::size_t position, double theta) {
  const std::size_t half = x.size() / 2;
  Row y;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double frequency =
        std::pow(theta, -2.0 * static_cast<double>(i % half) / static_cast<double>(x.size()));
    const double angle = static_cast<double>(position) * frequency;
    const double turned = i < half ? -x[i + half] : x[i - half];
    y.push_back(x[i] * std::cos(angle) + turned * std::sin(angle));
  }
  return y;
}

double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

// Logits, flat [N, V].
Row gpt2(const Weights& w, const ModelConfig& c, const Tensor& tokens) {
  Rows x;
  for (std::int64_t n = 0; n < tokens.numel(); ++n) {
    Row r;
    for (std::int64_t i = 0; i < c.dim; ++i)
      r.push_back(w.at("token_embedding.weight", tokens.data<std::int32_t>()[n], i) +
                  w.at("position_embedding.weight", n, i));
    x.push_back(r);
  }
  const std::int64_t d = c.dim / c.n_heads;
  for (int l = 0; l < c.n_layers; ++l) {
    const std::string b = fmt::format("blocks.{}.", l);
    Rows joined(x.size());
    for (int h = 0; h < c.n_heads; ++h) {
      Rows q, k, v;
      for (const Row& r : x) {
        const Row normed = layer_norm(w, b + "attention_norm", r, c.norm_eps);
        q.push_back(project(w, b + "attention.qkv", normed, h * d, d));
        k.push_back(project(w, b + "attention.qkv", normed, c.dim + h * d, d));
        v.push_back(project(w, b + "attention.qkv", normed, 2 * c.dim + h * d, d));
      }
      const Rows o = attend(q, k, v);
      for (std::size_t n = 0; n < x.size(); ++n) joined[n].insert(joined[n].end(), o[n].begin(), o[n].end());
    }
    for (std::size_t n = 0; n < x.size(); ++n) {
      add_to(x[n], project(w, b + "attention.out", joined[n], 0, c.dim));
      Row h = project(w, b + "mlp.up", layer_norm(w, b + "mlp_norm", x[n], c.norm_eps), 0, c.ffn_dim);
      for (double& v : h) v = gelu_tanh(v);
      add_to(x[n], project(w, b + "mlp.down", h, 0, c.dim));
    }
  }
  Row logits;
  for (const Row& r : x) {
    const Row y = project(w, "token_embedding", layer_norm(w, "final_norm", r, c.norm_eps), 0, c.vocab_size);
    logits.insert(logits.end(), y.begin(), y.end());
  }
  return logits;
}

Row llama(const Weights& w, const ModelConfig& c, const Tensor& tokens) {
  Rows x;
  for (const std::int32_t token : tokens.values<std::int32_t>()) {
    Row r;
    for (std::int64_t i = 0; i < c.dim; ++i) r.push_back(w.at("token_embedding.weight", token, i));
    x.push_back(r);
  }
  const std::int64_t d = c.head_dim, key_rows = c.n_heads * d, value_rows = key_rows + c.n_kv_heads * d;
  for (int l = 0; l < c.n_layers; ++l) {
    const std::string b = fmt::format("blocks.{}.", l);
    Rows joined(x.size());
    for (int h = 0; h < c.n_heads; ++h) {
      const int g = h / (c.n_heads / c.n_kv_heads);
      Rows q, k, v;
      for (std::size_t n = 0; n < x.size(); ++n) {
        const Row normed = rms_norm(w, b + "attention_norm", x[n], c.norm_eps);
        q.push_back(rotate(project(w, b + "attention.qkv", normed, h * d, d), n, c.rope_theta));
        k.push_back(rotate(project(w, b + "attention.qkv", normed, key_rows + g * d, d), n, c.rope_theta));
        v.push_back(project(w, b + "attention.qkv", normed, value_rows + g * d, d));
      }
      const Rows o = attend(q, k, v);
      for (std::size_t n = 0; n < x.size(); ++n) joined[n].insert(joined[n].end(), o[n].begin(), o[n].end());
    }
    for (std::size_t n = 0; n < x.size(); ++n) {
      add_to(x[n], project(w, b + "attention.out", joined[n], 0, c.dim));
      const Row normed = rms_norm(w, b + "mlp_norm", x[n], c.norm_eps);
      const Row gate = project(w, b + "mlp.gate", normed, 0, c.ffn_dim);
      Row h = project(w, b + "mlp.up", normed, 0, c.ffn_dim);
      for (std::size_t i = 0; i < h.size(); ++i) h[i] *= gate[i] / (1 + std::exp(-gate[i]));
      add_to(x[n], project(w, b + "mlp.down", h, 0, c.dim));
    }
  }
  Row logits;
  for (const Row& r : x) {
    const Row y = project(w, "head", rms_norm(w, "final_norm", r, c.norm_eps), 0, c.vocab_size);
    logits.insert(logits.end(), y.begin(), y.end());
  }
  return logits;
}

void expect_same(const ModelConfig& config, std::int64_t n,
                 Row (*plain)(const Weights&, const ModelConfig&, const Tensor&)) {
  Random random(test_seed(), 11);
  Transformer model = make_model(config, 1, make_patterns(config, n), DType::f64);
  randomize(model, random);
  ModelInput input;
  input.tokens = random.integers({1, n}, 0, config.vocab_size - 1);
  const NoGrad no_grad;
  const Tensor logits = model.logits(input, {}).value();
  ASSERT_EQ(logits.shape(), (Shape{1, n, config.vocab_size}));
  const Row expected = plain(Weights(model), model.config(), input.tokens);
  EXPECT_LT(max_difference(logits.reshape({-1}), Tensor::of({logits.numel()}, expected)), 1e-10);
}

TEST(LayersReference, Gpt2) {
  expect_same(small_config(), 21, gpt2);
}

TEST(LayersReference, Llama) {
  ModelConfig c = small_config();
  c.n_heads = 6;
  c.n_kv_heads = 2;
  c.head_dim = 4;
  c.dim = 10;
  c.norm = NormKind::rms_norm;
  c.activation = Activation::swiglu;
  c.positions = Positions::rope;
  c.bias = false;
  c.tied_embeddings = false;
  expect_same(c, 23, llama);
}

}  // namespace
}  // namespace filigree
