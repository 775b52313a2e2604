// Sparse attention as a library: a pattern from one line of YAML, forward and backward.
#include <cmath>
#include <cstdio>

#include "attention/pattern_spec.h"
#include "attention/sparse_attention.h"
#include "core/ops.h"
#include "core/random.h"
#include "train/config/config.h"

using namespace filigree;

int main() {
  const std::int64_t n = 1000, heads = 2, dim = 32;
  const YamlNode yaml = parse_yaml("{longformer: {window: 64, global: 2}}", "the pattern");
  const PatternPtr pattern = make_layer_patterns(read_pattern(yaml), 1, heads).front();
  const auto layout = std::make_shared<const TileLayout>(build_layout(*pattern, {.n = n, .tile = 32}, heads));

  const auto random = [&](std::uint32_t site) {
    Tensor t = Tensor::empty({1, n, heads, dim});
    RandomStream stream(RandomKey{1, site, 0});
    for (std::int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(stream.normal());
    return Var(t, true);
  };
  const Var q = random(0), k = random(1), v = random(2);
  const Var loss = ops::sum(sparse_attention(q, k, v, layout));
  backward(loss);

  double norm = 0;
  for (std::int64_t i = 0; i < q.grad().numel(); ++i) norm += std::pow(q.grad().data<float>()[i], 2);
  std::printf("loss %.6f, |dq| %.6f, patterns %zu\n", static_cast<double>(loss.value().data<float>()[0]),
              std::sqrt(norm), pattern_names().size());
  return norm > 0 && std::isfinite(norm) ? 0 : 1;
}
