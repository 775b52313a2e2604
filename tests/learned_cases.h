// Learned patterns for tests: mechanisms and layers from YAML, and random inputs.
#pragma once

#include <gtest/gtest.h>

#include "attention/learned/gated.h"
#include "attention/learned/routed.h"
#include "attention/pattern_spec.h"
#include "attention/sparse_attention.h"
#include "core/ops.h"
#include "tests/gradcheck.h"

namespace filigree::test {

using std::int64_t;

inline PatternPtr pattern(const std::string& yaml, int n_heads) {
  return make_pattern(read_pattern(parse_yaml(yaml, "test")), 0, 1, n_heads);
}

inline ParameterFactory factory(DType type = DType::f64) {
  return {test_seed(), Device::cpu(), type};
}

inline LearnedHeads heads(int64_t n, int n_heads, int n_kv_heads = 0, int tile = 16, bool causal = true,
                          int64_t dim = 8) {
  return {"p", n_heads, n_kv_heads ? n_kv_heads : n_heads, dim, {n, causal, tile}, "p", 0};
}

inline ConnectivityPtr layer(const std::string& yaml, const Geometry& g, int n_heads, int n_kv_heads = 0,
                             DType type = DType::f64) {
  const auto patterns =
      std::make_shared<const LayerPatterns>(std::vector{pattern(yaml, n_heads)}, g, n_heads);
  return make_connectivity(factory(type), "p", patterns, 0, n_kv_heads ? n_kv_heads : n_heads, 8);
}

struct Inputs {
  Var q, k, v;
};

inline Inputs random_inputs(Random& random, int64_t batch, const LearnedHeads& h) {
  const int64_t n = h.geometry.n, d = h.head_dim;
  return {Var(random.normal({batch, n, h.n_heads, d})), Var(random.normal({batch, n, h.n_kv_heads, d})),
          Var(random.normal({batch, n, h.n_kv_heads, d}))};
}

inline std::vector<Var> leaves_of(Module& module) {
  std::vector<Var> all;
  module.visit([&](Parameter& p) { all.push_back(p.var); });
  return all;
}

inline std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return std::string(e.what()) + " | " + e.hint();
  }
  return "no error";
}

}  // namespace filigree::test
