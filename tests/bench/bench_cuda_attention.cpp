// Attention on the GPU, forward and backward, per pattern and shape: those that RESULTS.md compares with
// PyTorch's FlexAttention. One JSON line per pattern, shape and tile edge.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>

#include "attention/kernels.h"
#include "attention/pattern_spec.h"
#include "attention/sparse_attention.h"
#include "tests/bench/bench_cuda.h"

namespace filigree {
namespace {

struct Case {
  const char* name;
  std::string pattern;
};

// A window of two blocks of 128 and every eighth block, as pairs of blocks.
std::string strided_blocks(std::int64_t n) {
  std::string pairs;
  for (std::int64_t q = 0; q < n / 128; ++q)
    for (std::int64_t k = 0; k <= q; ++k)
      if (q - k < 2 || k % 8 == 7) pairs += fmt::format("{}[{}, {}]", pairs.empty() ? "" : ", ", q, k);
  return fmt::format("{{block: {{size: 128, pairs: [{}]}}}}", pairs);
}

std::vector<Case> cases(std::int64_t n) {
  return {{"causal", "{full: {}}"},
          {"local512", "{local: {window: 512}}"},
          {"local1024", "{local: {window: 1024}}"},
          {"longformer", "{longformer: {window: 512, global: 128}}"},
          {"strided_block", n <= 16384 ? strided_blocks(n) : ""},
          {"strided", n <= 16384 ? "{union: [{local: {window: 128}}, {strided: {stride: 128}}]}" : ""},
          {"bigbird", "{bigbird: {block: 128, window: 3, global: 1, random: 3}}"},
          {"perhead", "{bigbird: {block: 128, window: 3, global: 1, random: 5, per_head: true}}"}};
}

struct Shape4 {
  std::int64_t b, h, n, d;
};

void measure(const Case& c, const Shape4& s, int tile, DType type) {
  const PatternPtr pattern =
      make_pattern(read_pattern(parse_yaml(c.pattern, c.name)), 0, 1, static_cast<int>(s.h));
  const auto layout =
      std::make_shared<TileLayout>(build_layout(*pattern, {s.n, true, tile}, static_cast<int>(s.h)));
  const Shape shape{s.b, s.n, s.h, s.d};
  const auto heads = [&](std::uint64_t seed) { return Heads::all(random_on_device(shape, type, seed)); };
  const AttentionInput in{heads(1), heads(2), heads(3), layout,
                          {},       {},       {},       1 / std::sqrt(static_cast<double>(s.d))};
  const Tensor o_grad = random_on_device(shape, type, 4);
  Tensor o = Tensor::empty(shape, type, Device::cuda());
  Tensor lse = Tensor::empty({s.b, s.h, s.n}, DType::f32, Device::cuda()), delta = Tensor::empty_like(lse);
  Tensor none;
  Heads dq = Heads::all(Tensor::empty_like(o)), dk = Heads::all(Tensor::empty_like(o)),
        dv = Heads::all(Tensor::empty_like(o));
  const double forward = median_ms([&] {
    on_device(Device::cuda(), [&](auto context) { sparse_attention_forward(context, in, none, o, lse); });
  });
  const double backward = median_ms([&] {
    on_device(Device::cuda(), [&](auto context) {
      sparse_attention_backward(context, in, o, lse, o_grad, delta, dq, dk, dv, none);
    });
  });
  const LayoutStatistics statistics = layout->statistics();
  const double tiles =
      static_cast<double>(s.b * statistics.computed_tiles) * tile * tile * static_cast<double>(s.d);
  const double pairs = static_cast<double>(s.b * statistics.exact_pairs) * static_cast<double>(s.d);
  fmt::print(
      "{{\"shape\": \"{}x{}x{}x{}\", \"pattern\": \"{}\", \"impl\": \"filigree\", \"dtype\": \"{}\", "
      "\"tile\": "
      "{}, \"fwd_ms\": {:.4f}, \"bwd_ms\": {:.4f}, \"fwd_tflops\": {:.1f}, \"bwd_tflops\": {:.1f}, "
      "\"fwd_tile_tflops\": {:.1f}, \"bwd_tile_tflops\": {:.1f}}}\n",
      s.b, s.h, s.n, s.d, c.name, dtype_name(type), tile, forward, backward, 4 * pairs / forward / 1e9,
      10 * pairs / backward / 1e9, 4 * tiles / forward / 1e9, 10 * tiles / backward / 1e9);
  std::fflush(stdout);
}

}  // namespace
}  // namespace filigree

int main(int argc, char** argv) {
  using namespace filigree;
  std::vector<std::string> shapes = {"1x16x16384x64", "1x16x16384x128", "1x16x65536x64"}, only;
  std::vector<int> tiles = {64, 128};
  bool fp32 = false;
  CLI::App app{"Attention on the GPU"};
  app.add_option("--shapes", shapes, "BxHxNxD")->delimiter(',');
  app.add_option("--patterns", only)->delimiter(',');
  app.add_option("--tiles", tiles)->delimiter(',');
  app.add_flag("--fp32", fp32);
  CLI11_PARSE(app, argc, argv);
  if (!have_cuda()) return 1;
  for (const std::string& text : shapes) {
    Shape4 s{};
    if (std::sscanf(text.c_str(), "%ldx%ldx%ldx%ld", &s.b, &s.h, &s.n, &s.d) != 4) return 2;
    for (const Case& c : cases(s.n))
      if (!c.pattern.empty() && (only.empty() || std::ranges::count(only, c.name) > 0))
        for (const int tile : tiles) measure(c, s, tile, fp32 ? DType::f32 : DType::bf16);
  }
}
