// Small models and layouts for the tests of layers and training.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "attention/pattern_spec.h"
#include "layers/transformer.h"
#include "tests/gradcheck.h"

namespace filigree {

// `pattern` is YAML, e.g. "{local: {window: 3}}".
inline LayoutPtr make_layout(const std::string& pattern, std::int64_t n, int n_heads, bool causal,
                             int tile = 16) {
  const Geometry geometry{n, causal, tile};
  const PatternPtr p = make_pattern(read_pattern(parse_yaml(pattern, "test")), 0, 1, n_heads);
  return std::make_shared<TileLayout>(build_layout(*p, geometry, n_heads));
}

// The same pattern in all layers, at a training length of n.
inline LayerPatternsPtr make_patterns(const ModelConfig& config, std::int64_t n,
                                      const std::string& pattern = "{full: {}}", int tile = 16) {
  return std::make_shared<const LayerPatterns>(
      make_layer_patterns(read_pattern(parse_yaml(pattern, "test")), config.n_layers, config.n_heads),
      Geometry{n, config.type == ModelType::decoder, tile}, config.n_heads);
}

inline ConnectivityPtr connectivity_of(const LayoutPtr& layout) {
  return std::make_shared<Fixed>(Geometry{layout->n_queries(), layout->causal(), layout->tile()},
                                 [layout](std::int64_t) {
                                   return Connected{layout, {}};
                                 });
}

inline Transformer make_model(const ModelConfig& config, std::uint64_t seed, const LayerPatternsPtr& patterns,
                              DType dtype = DType::f32, Device device = Device::cpu()) {
  return Transformer(config, seed, device, dtype, dtype, patterns);
}

// A GPT-2 shape.
inline ModelConfig small_config() {
  ModelConfig c;
  c.dim = 12;
  c.n_layers = 2;
  c.n_heads = 3;
  c.ffn_dim = 20;
  c.vocab_size = 11;
  c.max_seq_len = 40;
  return c;
}

// Makes every parameter random, so that no bias is 0, no norm 1 and no attention nearly uniform.
inline void randomize(Module& module, Random& random, double deviation = 0.3) {
  module.visit([&](Parameter& p) {
    const Tensor noise = random.normal(p.var.shape(), p.var.dtype(), deviation);
    const bool is_norm = p.name.ends_with("norm.weight");
    Tensor value = is_norm ? Tensor::full(p.var.shape(), 1, p.var.dtype()) : Tensor::zeros_like(noise);
    for (std::int64_t i = 0; i < value.numel(); ++i) {
      if (value.dtype() == DType::f64) value.data<double>()[i] += noise.data<double>()[i];
      if (value.dtype() == DType::f32) value.data<float>()[i] += noise.data<float>()[i];
    }
    p.var.value().copy_from(value);
  });
}

inline std::vector<Var> leaves(Module& module) {
  std::vector<Var> all;
  module.visit([&](Parameter& p) { all.push_back(p.var); });
  return all;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() &&
         (!a.defined() ||
          (a.shape() == b.shape() && a.dtype() == b.dtype() &&
           std::memcmp(a.raw_data(), b.raw_data(), static_cast<std::size_t>(a.bytes())) == 0));
}

inline double max_difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  double worst = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) worst = std::max(worst, std::abs(a.item(i) - b.item(i)));
  return worst;
}

}  // namespace filigree
