// sparse_attention against dense masked attention in fp64 (attention/reference.h) on random problems: output,
// lse and every gradient.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "attention/reference.h"
#include "core/kernels.h"
#include "tests/gradcheck.h"
#include "tests/random_patterns.h"

namespace filigree {
namespace {

// The greatest difference allowed. Its unit is the greatest element of the oracle, at least 1, the size of
// the inputs, and for the gradients through the softmax at least the greatest sum of P (|dP| + |Delta|) times
// what it is multiplied with: those are sums of many terms P (dP - Delta), of which often nothing is left.
struct Tolerance {
  DType dtype;
  double error;
};
constexpr Tolerance kTolerances[] = {{DType::f64, 1e-10}, {DType::f32, 1e-5}};

struct Case {
  Tensor q, k, v, gate, row_bounds, slopes, cotangent;  // f64
  Tensor allowed;
  LayoutPtr layout;
  double scale = 0;
  std::string text;
};

// Documents (each row sees its own), padding at the end (rows without keys), or arbitrary bounds.
Tensor random_bounds(Random& random, std::int64_t B, std::int64_t N, std::int64_t M) {
  Tensor bounds = Tensor::zeros({B, N, 2}, DType::i32);
  for (std::int64_t b = 0; b < B; ++b) {
    auto* of_batch = bounds.data<std::int32_t>() + b * N * 2;
    if (random.coin() || N != M) {
      for (std::int64_t i = 0; i < N; ++i) {
        of_batch[2 * i] = static_cast<std::int32_t>(random.range(0, M));
        of_batch[2 * i + 1] = static_cast<std::int32_t>(random.range(0, M));
      }
      continue;
    }
    const std::int64_t used = random.coin() ? N : random.range(0, N);
    for (std::int64_t begin = 0; begin < used;) {
      const std::int64_t end = std::min(used, begin + random.range(1, std::max<std::int64_t>(1, N / 2)));
      for (std::int64_t i = begin; i < end; ++i) {
        of_batch[2 * i] = static_cast<std::int32_t>(begin);
        of_batch[2 * i + 1] = static_cast<std::int32_t>(end);
      }
      begin = end;
    }
  }
  return bounds;
}

// Any tiles with any masks, for N != M, which patterns do not make.
LayoutPtr random_layout(Random& random, std::int64_t N, std::int64_t M, int tile, int n_heads) {
  MaskTable masks(tile);
  const auto add_mask = [&](std::int64_t rows, std::int64_t columns) {
    std::vector<std::uint64_t> words(static_cast<std::size_t>(masks.words_per_mask()));
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c)
        if (random.coin())
          words[static_cast<std::size_t>(r * masks.words_per_row() + c / 64)] |= 1ull << (c % 64);
    masks.append(words);
    return masks.size() - 1;
  };
  std::vector<TilePattern> patterns(static_cast<std::size_t>(random.range(1, n_heads)));
  for (auto& pattern : patterns) {
    pattern.row_offsets.push_back(0);
    for (std::int64_t q = 0; q * tile < N; ++q) {
      for (std::int64_t c = 0; c * tile < M; ++c) {
        if (random.range(0, 2) == 0) continue;
        pattern.columns.push_back(static_cast<std::int32_t>(c));
        const std::int64_t rows = std::min<std::int64_t>(tile, N - q * tile);
        const std::int64_t columns = std::min<std::int64_t>(tile, M - c * tile);
        pattern.mask_id.push_back(random.coin() ? kFullTile : add_mask(rows, columns));
      }
      pattern.row_offsets.push_back(static_cast<std::int32_t>(pattern.columns.size()));
    }
  }
  std::vector<std::int32_t> head_pattern;
  for (int h = 0; h < n_heads; ++h)
    head_pattern.push_back(static_cast<std::int32_t>(random.range(0, std::ssize(patterns) - 1)));
  return std::make_shared<TileLayout>(N, M, tile, false, std::move(patterns), std::move(head_pattern),
                                      std::move(masks));
}

void choose_pairs(Random& random, Case& c, std::int64_t N, std::int64_t M, int tile, int n_heads) {
  if (N != M) {
    c.layout = random_layout(random, N, M, tile, n_heads);
    c.allowed = allowed_pairs(*c.layout);
    c.text += " random tiles";
    return;
  }
  const Geometry geometry{N, random.coin(), tile};
  const std::string text =
      test::random_pattern(random.stream(), N, n_heads, static_cast<int>(random.range(0, 2)));
  const PatternPtr pattern = test::parse_pattern(text, n_heads);
  c.layout = std::make_shared<TileLayout>(build_layout(*pattern, geometry, n_heads));
  c.allowed = Tensor::zeros({n_heads, N, N}, DType::u8);
  for (int h = 0; h < n_heads; ++h)
    for (std::int64_t i = 0; i < N; ++i)
      for (std::int64_t j = 0; j < (geometry.causal ? i + 1 : N); ++j)
        c.allowed.data<std::uint8_t>()[(h * N + i) * N + j] = pattern->allows(geometry, h, i, j);
  c.text += fmt::format(" causal={} {}", geometry.causal, text);
}

Tensor random_gate(Random& random, const Shape& shape) {
  Tensor gate = random.uniform(shape, 0.01, 2);
  const std::int64_t zeros_in = random.range(1, 4);  // 1: all of them
  for (std::int64_t i = 0; i < gate.numel(); ++i)
    if (random.range(1, zeros_in) == 1) gate.data<double>()[i] = 0;
  return gate;
}

Case random_case(Random& random, std::int64_t max_n) {
  Case c;
  constexpr int kTiles[] = {16, 32, 64, 128};
  const int tile = kTiles[random.range(0, 3)];
  const std::int64_t B = random.range(1, 3), N = random.size(1, max_n);
  const std::int64_t M = random.range(0, 4) ? N : random.size(1, max_n);
  const std::int64_t G = random.range(1, 3), H = G * random.range(1, 3), D = random.size(1, 40);
  c.text = fmt::format("B={} N={} M={} H={} G={} D={} T={}", B, N, M, H, G, D, tile);
  choose_pairs(random, c, N, M, tile, static_cast<int>(H));
  c.q = random.normal({B, N, H, D});
  c.k = random.normal({B, M, G, D});
  c.v = random.normal({B, M, G, D});
  c.cotangent = random.normal({B, N, H, D});
  const std::int64_t S = c.layout->gate_size();
  if (random.coin()) c.gate = random_gate(random, random.coin() ? Shape{S} : Shape{B, S});
  if (random.coin()) c.row_bounds = random_bounds(random, B, N, M);
  if (random.range(0, 2) == 0) c.slopes = alibi_slopes(static_cast<int>(H), DType::f64, Device::cpu());
  if (random.coin()) c.scale = 0.1 + 0.5 * random.stream().uniform();
  c.text +=
      fmt::format(" gate={} bounds={} alibi={} scale={}", c.gate.defined() ? c.gate.shape().str() : "no",
                  c.row_bounds.defined(), c.slopes.defined(), c.scale);
  return c;
}

struct Outcome {
  Tensor o, lse;
  std::vector<Tensor> grads;  // of q, k, v, gate
};

template <class Attention>
Outcome run(const Case& c, DType dtype, Attention&& attention) {
  const Var q(c.q.to(dtype), true), k(c.k.to(dtype), true), v(c.v.to(dtype), true);
  Outcome outcome;
  AttentionOptions options;
  if (c.gate.defined()) options.gate = Var(c.gate.to(dtype), true);
  options.row_bounds = c.row_bounds;
  options.scale = c.scale;
  if (c.slopes.defined()) options.alibi_slopes = c.slopes.to(dtype);
  options.lse = &outcome.lse;
  const Var o = attention(q, k, v, options);
  backward(o, c.cotangent.to(dtype));
  outcome.o = o.value();
  outcome.grads = {q.grad(), k.grad(), v.grad(), c.gate.defined() ? options.gate.grad() : Tensor{}};
  return outcome;
}

Outcome run_sparse(const Case& c, DType dtype) {
  return run(c, dtype, [&](const Var& q, const Var& k, const Var& v, const AttentionOptions& options) {
    return sparse_attention(q, k, v, c.layout, options);
  });
}

Outcome run_reference(const Case& c) {
  return run(c, DType::f64, [&](const Var& q, const Var& k, const Var& v, const AttentionOptions& options) {
    return reference_attention(q, k, v, c.allowed, *c.layout, options);
  });
}

// Above this S - lse (in base 2) the f32 kernel cuts a switched-off tile's gate gradient, to keep it finite.
constexpr double kGreatestExponent = 100;

struct Units {
  double q, k, gate;
  std::vector<std::uint8_t> gate_is_cut;  // by element of the gate, in f32
};

Units softmax_units(const Case& c, const Outcome& oracle) {
  const std::int64_t B = c.q.dim(0), N = c.q.dim(1), H = c.q.dim(2), D = c.q.dim(3);
  const std::int64_t M = c.k.dim(1), G = c.k.dim(2), T = c.layout->tile();
  std::vector<double> q_sums(static_cast<std::size_t>(B * N * H)),
      k_sums(static_cast<std::size_t>(B * M * G));
  std::vector<double> gate_sums(static_cast<std::size_t>(B * c.layout->gate_size() + 1));
  std::vector<std::uint8_t> gate_is_cut(gate_sums.size());
  const auto row_of = [&](const Tensor& x, std::int64_t row) { return x.data<double>() + row * D; };
  const auto dot = [&](const double* x, const double* y) { return std::inner_product(x, x + D, y, 0.0); };
  const double scale = c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<double>(D));
  for (std::int64_t row = 0; row < B * N * H; ++row) {
    const std::int64_t b = row / H / N, i = row / H % N, h = row % H;
    const TilePattern& pattern = c.layout->of_head(static_cast<int>(h));
    const double lse = oracle.lse.data<double>()[(b * H + h) * N + i];
    if (std::isinf(lse)) continue;
    const double delta = std::abs(dot(row_of(c.cotangent, row), row_of(oracle.o, row)));
    for (auto t = pattern.row_offsets[i / T]; t < pattern.row_offsets[i / T + 1]; ++t) {
      // A gate that all batches share collects the terms of all.
      const bool per_batch = c.gate.defined() && c.gate.rank() == 2;
      const std::int64_t g =
          (per_batch ? b * c.layout->gate_size() : 0) + c.layout->gate_offset(static_cast<int>(h)) + t;
      const double gate = c.gate.defined() ? c.gate.data<double>()[g] : 1;
      for (std::int64_t j = pattern.columns[t] * T; j < std::min(M, (pattern.columns[t] + 1) * T); ++j) {
        if (!c.allowed.data<std::uint8_t>()[(h * N + i) * M + j]) continue;
        if (c.row_bounds.defined() &&
            (j < c.row_bounds.item(2 * (b * N + i)) || j >= c.row_bounds.item(2 * (b * N + i) + 1)))
          continue;
        const std::int64_t key = (b * M + j) * G + h / (H / G);
        const double bias = c.slopes.defined() ? -c.slopes.item(h) * static_cast<double>(std::abs(i - j)) : 0;
        const double p0 = std::exp(scale * dot(row_of(c.q, row), row_of(c.k, key)) + bias - lse);
        if (p0 > std::exp2(kGreatestExponent)) {
          gate_is_cut[static_cast<std::size_t>(g)] = 1;
          continue;
        }
        const double term = p0 * (std::abs(dot(row_of(c.cotangent, row), row_of(c.v, key))) + delta);
        gate_sums[static_cast<std::size_t>(g)] += term;
        q_sums[static_cast<std::size_t>(row)] += scale * gate * term;
        k_sums[static_cast<std::size_t>(key)] += scale * gate * term;
      }
    }
  }
  return {std::ranges::max(q_sums), std::ranges::max(k_sums), std::ranges::max(gate_sums), gate_is_cut};
}

// Greatest |x - oracle| / max(unit, greatest |oracle|); infinite elements must be equal. No gradient means 0.
double error_of(const Tensor& x, const Tensor& oracle, double unit = 1) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (!x.defined() && !oracle.defined()) return 0;
  const Tensor& shaped = x.defined() ? x : oracle;
  if (x.defined() && oracle.defined() && x.shape() != oracle.shape()) return kInfinity;
  double difference = 0, scale = std::max(1.0, unit);
  for (std::int64_t i = 0; i < shaped.numel(); ++i) {
    const double a = x.defined() ? x.item(i) : 0, b = oracle.defined() ? oracle.item(i) : 0;
    if (a == b) {
      if (std::isfinite(b)) scale = std::max(scale, std::abs(b));
      continue;
    }
    if (!std::isfinite(a) || !std::isfinite(b)) return kInfinity;
    difference = std::max(difference, std::abs(a - b));
    scale = std::max(scale, std::abs(b));
  }
  return difference / scale;
}

void expect_close(const Case& c, const Outcome& x, const Outcome& oracle, double tolerance, double* worst) {
  const auto expect = [&](const char* name, const Tensor& a, const Tensor& b, double unit = 1) {
    const double error = error_of(a, b, unit);
    *worst = std::max(*worst, error);
    EXPECT_LE(error, tolerance) << name;
  };
  const Units units = softmax_units(c, oracle);
  expect("o", x.o, oracle.o);
  expect("lse", x.lse, oracle.lse);
  expect("dq", x.grads[0], oracle.grads[0], units.q);
  expect("dk", x.grads[1], oracle.grads[1], units.k);
  expect("dv", x.grads[2], oracle.grads[2]);
  if (!c.gate.defined() || x.o.dtype() == DType::f64) {
    expect("dgate", x.grads[3], oracle.grads[3], units.gate);
    return;
  }
  Tensor gate_grad = x.grads[3].defined() ? x.grads[3].to(DType::f64).clone() : Tensor::zeros_like(c.gate);
  Tensor expected = oracle.grads[3].defined() ? oracle.grads[3].clone() : Tensor::zeros_like(c.gate);
  for (std::int64_t g = 0; g < expected.numel(); ++g) {
    if (!units.gate_is_cut[static_cast<std::size_t>(g)]) continue;
    EXPECT_TRUE(std::isfinite(gate_grad.item(g))) << "dgate";
    gate_grad.data<double>()[g] = expected.data<double>()[g] = 0;
  }
  expect("dgate", gate_grad, expected, units.gate);
}

void compare_cases(int cases, std::int64_t max_n, std::uint32_t site) {
  double worst[std::size(kTolerances)] = {};
  for (int i = 0; i < cases && !testing::Test::HasFailure(); ++i) {
    Random random(test_seed() + static_cast<std::uint64_t>(i), site);
    const Case c = random_case(random, max_n);
    SCOPED_TRACE(fmt::format("case {}: {}", i, c.text));
    const Outcome oracle = run_reference(c);
    for (std::size_t t = 0; t < std::size(kTolerances); ++t) {
      SCOPED_TRACE(dtype_name(kTolerances[t].dtype));
      expect_close(c, run_sparse(c, kTolerances[t].dtype), oracle, kTolerances[t].error, &worst[t]);
    }
  }
  for (std::size_t t = 0; t < std::size(kTolerances); ++t)
    std::cout << dtype_name(kTolerances[t].dtype) << ": greatest error " << worst[t] << std::endl;
}

TEST(AttentionOracle, SmallCases) {
  compare_cases(1000, 50, 1);
}
TEST(AttentionOracle, CasesOfSeveralTiles) {
  compare_cases(60, 300, 2);
}

}  // namespace
}  // namespace filigree
