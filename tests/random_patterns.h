// Random pattern trees, as YAML text, for the tests that hold layouts and kernels against their meaning.
#pragma once

#include <fmt/format.h>

#include <string>

#include "attention/pattern_spec.h"
#include "core/random.h"

namespace filigree::test {

inline std::string random_leaf(RandomStream& random, std::int64_t n) {
  const auto in = [&](std::int64_t low, std::int64_t high) { return random.range(low, std::max(low, high)); };
  const auto seed = in(0, 1000);
  const char* per_head = in(0, 1) ? "true" : "false";
  switch (in(0, 10)) {
    case 0:
      return "{full: {}}";
    case 1:
      return fmt::format("{{local: {{window: {}}}}}", in(1, n));
    case 2:
      return fmt::format("{{local: {{window: {}, dilation: {}}}}}", in(1, n), in(1, 5));
    case 3:
      return fmt::format("{{global: {{tokens: {}}}}}", in(1, 3));
    case 4:
      return fmt::format("{{global: {{positions: [{}]}}}}", in(0, n - 1));
    case 5:
      return fmt::format("{{strided: {{stride: {}}}}}", in(1, n));
    case 6: {
      const auto stride = in(1, n);
      return fmt::format("{{fixed: {{stride: {}, summary: {}}}}}", stride, in(1, stride));
    }
    case 7:
      return fmt::format("{{random: {{keys: {}, seed: {}, per_head: {}}}}}", in(1, 9), seed, per_head);
    case 8:
      return fmt::format("{{random_blocks: {{block: {}, blocks: {}, seed: {}, per_head: {}}}}}", in(1, 40),
                         in(1, 3), seed, per_head);
    case 9:
      return fmt::format(
          "{{bigbird: {{block: {}, window: {}, global: {}, random: {}, seed: {}, per_head: {}}}}}", in(1, 40),
          in(1, 5), in(0, 2), in(0, 3), seed, per_head);
    default:
      return fmt::format("{{longformer: {{window: {}, global: {}}}}}", in(1, n), in(0, 3));
  }
}

// A tree of at most `depth` operations above its leaves; `heads:` only where `with_heads`.
inline std::string random_pattern(RandomStream& random, std::int64_t n, int n_heads, int depth,
                                  bool with_heads = true) {
  const auto inner = [&](bool heads) { return random_pattern(random, n, n_heads, depth - 1, heads); };
  const auto choice = depth == 0 ? 0 : random.range(0, with_heads && n_heads > 1 ? 5 : 4);
  if (choice <= 1) return random_leaf(random, n);
  if (choice == 5) {
    const auto first = random.range(1, n_heads - 1);
    return fmt::format("{{heads: [{{count: {}, pattern: {}}}, {{count: {}, pattern: {}}}]}}", first,
                       inner(false), n_heads - first, inner(false));
  }
  const char* names[] = {"union", "intersect", "minus"};
  std::string list = inner(with_heads) + ", " + inner(with_heads);
  if (choice != 4 && random.range(0, 1)) list += ", " + inner(with_heads);
  return fmt::format("{{{}: [{}]}}", names[choice - 2], list);
}

inline PatternPtr parse_pattern(const std::string& text, int n_heads = 1, int layer = 0, int n_layers = 1) {
  return make_pattern(read_pattern(parse_yaml(text, "test.yaml")), layer, n_layers, n_heads);
}

}  // namespace filigree::test
