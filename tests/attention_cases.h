// Random problems for sparse_attention, its dense oracle in fp64 (tests/attention_reference.h), and how far a
// result may be from it. Used by the tests of every device.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/kernels.h"
#include "tests/attention_reference.h"
#include "tests/gradcheck.h"
#include "tests/pattern_meaning.h"
#include "tests/random_patterns.h"

namespace filigree::test {

struct Case {
  Tensor q, k, v, gate, row_bounds, slopes, cotangent;  // f64
  Tensor allowed;
  LayoutPtr layout;
  double scale = 0;
  std::string text;
};

// What random cases are drawn from.
struct CaseRange {
  std::int64_t least_n = 1, greatest_n = 50;
  int least_tile = 16;
  std::int64_t least_dim = 1, greatest_dim = 40, dim_step = 1;
  std::int64_t greatest_batch = 3, greatest_kv_heads = 3,
               greatest_group = 3;  // group: query heads per kv head
};

// Documents (each row sees its own), padding at the end (rows without keys), or arbitrary bounds.
inline Tensor random_bounds(Random& random, std::int64_t B, std::int64_t N, std::int64_t M) {
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
inline LayoutPtr random_layout(Random& random, std::int64_t N, std::int64_t M, int tile, int n_heads) {
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

// One layout of the heads of all, in order.
inline LayoutPtr join(const std::vector<LayoutPtr>& layouts) {
  const TileLayout& first = *layouts.front();
  MaskTable masks(first.tile());
  std::vector<TilePattern> patterns;
  std::vector<std::int32_t> head_pattern;
  for (const LayoutPtr& layout : layouts) {
    for (const std::int32_t p : layout->head_pattern())
      head_pattern.push_back(static_cast<std::int32_t>(patterns.size()) + p);
    for (TilePattern p : layout->patterns()) {
      for (std::int32_t& id : p.mask_id)
        if (id != kFullTile) id += masks.size();
      patterns.push_back(std::move(p));
    }
    for (std::int32_t id = 0; id < layout->masks().size(); ++id) masks.append(layout->masks().mask(id));
  }
  return std::make_shared<TileLayout>(first.n_queries(), first.n_keys(), first.tile(), first.causal(),
                                      std::move(patterns), std::move(head_pattern), std::move(masks));
}

inline void choose_pairs(Random& random, Case& c, std::int64_t N, std::int64_t M, int tile, int n_heads) {
  if (N != M) {
    c.layout = random_layout(random, N, M, tile, n_heads);
    c.allowed = allowed_pairs(*c.layout);
    c.text += " random tiles";
    return;
  }
  const Geometry geometry{N, random.coin(), tile};
  const std::string text = random_pattern(random.stream(), N, n_heads, static_cast<int>(random.range(0, 2)));
  const PatternPtr pattern = parse_pattern(text, n_heads);
  const Meaning meaning = meaning_of(parse_yaml(text, "test.yaml"));
  c.layout = std::make_shared<TileLayout>(build_layout(*pattern, geometry, n_heads));
  c.allowed = Tensor::zeros({n_heads, N, N}, DType::u8);
  for (int h = 0; h < n_heads; ++h)
    for (std::int64_t i = 0; i < N; ++i)
      for (std::int64_t j = 0; j < (geometry.causal ? i + 1 : N); ++j)
        c.allowed.data<std::uint8_t>()[(h * N + i) * N + j] = meaning(geometry, h, i, j);
  c.text += fmt::format(" causal={} {}", geometry.causal, text);
}

inline Tensor random_gate(Random& random, const Shape& shape) {
  Tensor gate = random.uniform(shape, 0.01, 2);
  const std::int64_t zeros_in = random.range(1, 4);  // 1: all of them
  for (std::int64_t i = 0; i < gate.numel(); ++i)
    if (random.range(1, zeros_in) == 1) gate.data<double>()[i] = 0;
  return gate;
}

// Each of B sequences has pairs of its own.
inline void choose_pairs_each(Random& random, Case& c, std::int64_t B, std::int64_t N, std::int64_t M,
                              int tile, int n_heads) {
  std::vector<LayoutPtr> layouts;
  const bool causal = random.coin();
  for (std::int64_t b = 0; b < B; ++b) {
    if (N != M) {
      layouts.push_back(random_layout(random, N, M, tile, n_heads));
      continue;
    }
    const std::string text =
        random_pattern(random.stream(), N, n_heads, static_cast<int>(random.range(0, 2)));
    c.text += "\n  " + text;
    layouts.push_back(std::make_shared<TileLayout>(
        build_layout(*parse_pattern(text, n_heads), Geometry{N, causal, tile}, n_heads)));
  }
  c.layout = join(layouts);
  c.allowed = allowed_pairs(*c.layout);
  c.text += fmt::format(" each sequence, causal={}", causal);
}

inline void choose_inputs(Random& random, Case& c, std::int64_t B, std::int64_t H, std::int64_t G,
                          std::int64_t D) {
  const std::int64_t N = c.layout->n_queries(), M = c.layout->n_keys();
  c.q = random.normal({B, N, H, D});
  c.k = random.normal({B, M, G, D});
  c.v = random.normal({B, M, G, D});
  c.cotangent = random.normal({B, N, H, D});
}

inline Case random_case(Random& random, const CaseRange& range) {
  Case c;
  constexpr int kTiles[] = {16, 32, 64, 128};
  const int tile = kTiles[random.range(std::ranges::find(kTiles, range.least_tile) - kTiles, 3)];
  const std::int64_t B = random.range(1, range.greatest_batch);
  const std::int64_t N = random.size(range.least_n, range.greatest_n);
  const std::int64_t M = random.range(0, 4) ? N : random.size(range.least_n, range.greatest_n);
  const std::int64_t G = random.range(1, range.greatest_kv_heads);
  const std::int64_t H = G * random.range(1, range.greatest_group);
  const std::int64_t D = range.dim_step * random.size((range.least_dim + range.dim_step - 1) / range.dim_step,
                                                      range.greatest_dim / range.dim_step);
  c.text = fmt::format("B={} N={} M={} H={} G={} D={} T={}", B, N, M, H, G, D, tile);
  const bool own_pairs = B > 1 && random.range(0, 2) == 0;
  if (own_pairs)
    choose_pairs_each(random, c, B, N, M, tile, static_cast<int>(H));
  else
    choose_pairs(random, c, N, M, tile, static_cast<int>(H));
  choose_inputs(random, c, B, H, G, D);
  const std::int64_t S = c.layout->gate_size();
  if (random.coin()) c.gate = random_gate(random, own_pairs || random.coin() ? Shape{S} : Shape{B, S});
  if (random.coin()) c.row_bounds = random_bounds(random, B, N, M);
  if (random.range(0, 2) == 0) c.slopes = alibi_slopes(static_cast<int>(H), DType::f64, Device::cpu());
  // Up to D = 40 as drawn; beyond, S must not grow, since a rounding error of it is a relative one of P.
  if (random.coin())
    c.scale =
        (0.1 + 0.5 * random.stream().uniform()) * std::min(1.0, std::sqrt(40.0 / static_cast<double>(D)));
  c.text +=
      fmt::format(" gate={} bounds={} alibi={} scale={}", c.gate.defined() ? c.gate.shape().str() : "no",
                  c.row_bounds.defined(), c.slopes.defined(), c.scale);
  return c;
}

struct Outcome {
  Tensor o, lse;              // on the CPU
  std::vector<Tensor> grads;  // of q, k, v, gate
};

template <class Attention>
Outcome run(const Case& c, DType dtype, Device device, Attention&& attention) {
  const auto there = [&](const Tensor& t, DType type) { return t.defined() ? t.to(type).to(device) : t; };
  const auto here = [](const Tensor& t) { return t.defined() ? t.to(Device::cpu()) : t; };
  const DType sums = accumulation_dtype(dtype);
  const Var q(there(c.q, dtype), true), k(there(c.k, dtype), true), v(there(c.v, dtype), true);
  Outcome outcome;
  AttentionOptions options;
  if (c.gate.defined()) options.gate = Var(there(c.gate, sums), true);
  options.row_bounds = there(c.row_bounds, DType::i32);
  options.scale = c.scale;
  options.alibi_slopes = there(c.slopes, sums);
  options.lse = &outcome.lse;
  const Var o = attention(q, k, v, options);
  backward(o, there(c.cotangent, dtype));
  outcome.o = here(o.value());
  outcome.lse = here(outcome.lse);
  outcome.grads = {here(q.grad()), here(k.grad()), here(v.grad()),
                   c.gate.defined() ? here(options.gate.grad()) : Tensor{}};
  return outcome;
}

inline Outcome run_sparse(const Case& c, DType dtype, Device device = Device::cpu()) {
  return run(c, dtype, device,
             [&](const Var& q, const Var& k, const Var& v, const AttentionOptions& options) {
               return sparse_attention(q, k, v, c.layout, options);
             });
}

inline Outcome run_reference(const Case& c) {
  return run(c, DType::f64, Device::cpu(),
             [&](const Var& q, const Var& k, const Var& v, const AttentionOptions& options) {
               return reference_attention(q, k, v, c.allowed, *c.layout, options);
             });
}

// Above this S - lse (in base 2) the f32 kernel cuts a switched-off tile's gate gradient, to keep it finite.
inline constexpr double kGreatestExponent = 100;

// An allowed pair of a row that has keys.
struct Pair {
  std::int64_t h;
  std::int64_t row, key;  // rows of D elements in q (and o), and in k and v
  std::int64_t gate_index;
  double gate, p0;  // p0 = e^(S - lse)
};

inline double scale_of(const Case& c) {
  return c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<double>(c.q.dim(3)));
}

template <class F>
void for_each_pair(const Case& c, const Tensor& lse, F&& f) {
  const std::int64_t B = c.q.dim(0), N = c.q.dim(1), H = c.q.dim(2), D = c.q.dim(3);
  const std::int64_t M = c.k.dim(1), G = c.k.dim(2), T = c.layout->tile();
  for (std::int64_t row = 0; row < B * N * H; ++row) {
    const std::int64_t b = row / H / N, i = row / H % N, h = row % H;
    const auto head = static_cast<int>(c.layout->n_heads() == H ? h : b * H + h);
    const TilePattern& pattern = c.layout->of_head(head);
    const double row_lse = lse.data<double>()[(b * H + h) * N + i];
    if (std::isinf(row_lse)) continue;
    for (auto t = pattern.row_offsets[i / T]; t < pattern.row_offsets[i / T + 1]; ++t) {
      // A gate that all batches share collects the terms of all.
      const bool per_batch = c.gate.defined() && c.gate.rank() == 2;
      const std::int64_t g = (per_batch ? b * c.layout->gate_size() : 0) + c.layout->gate_offset(head) + t;
      const double gate = c.gate.defined() ? c.gate.data<double>()[g] : 1;
      for (std::int64_t j = pattern.columns[t] * T; j < std::min(M, (pattern.columns[t] + 1) * T); ++j) {
        if (!c.allowed.data<std::uint8_t>()[(head * N + i) * M + j]) continue;
        if (c.row_bounds.defined() &&
            (j < c.row_bounds.item(2 * (b * N + i)) || j >= c.row_bounds.item(2 * (b * N + i) + 1)))
          continue;
        const std::int64_t key = (b * M + j) * G + h / (H / G);
        const double *q = c.q.data<double>() + row * D, *k = c.k.data<double>() + key * D;
        const double bias = c.slopes.defined() ? -c.slopes.item(h) * static_cast<double>(std::abs(i - j)) : 0;
        f(Pair{h, row, key, g, gate,
               std::exp(scale_of(c) * std::inner_product(q, q + D, k, 0.0) + bias - row_lse)});
      }
    }
  }
}

struct Units {
  double q, k, gate;
  std::vector<std::uint8_t> gate_is_cut;  // by element of the gate, in f32
};

// The greatest sums of P (|dP| + |Delta|) times what they are multiplied with.
inline Units softmax_units(const Case& c, const Outcome& oracle) {
  const std::int64_t D = c.q.dim(3);
  std::vector<double> q_sums(static_cast<std::size_t>(c.q.numel() / D)),
      k_sums(static_cast<std::size_t>(c.k.numel() / D));
  std::vector<double> gate_sums(static_cast<std::size_t>(c.q.dim(0) * c.layout->gate_size() + 1));
  std::vector<std::uint8_t> gate_is_cut(gate_sums.size());
  const auto dot = [&](const Tensor& x, std::int64_t x_row, const Tensor& y, std::int64_t y_row) {
    const double *a = x.data<double>() + x_row * D, *b = y.data<double>() + y_row * D;
    return std::abs(std::inner_product(a, a + D, b, 0.0));
  };
  for_each_pair(c, oracle.lse, [&](const Pair& pair) {
    const auto g = static_cast<std::size_t>(pair.gate_index);
    if (pair.p0 > std::exp2(kGreatestExponent)) {
      gate_is_cut[g] = 1;
      return;
    }
    const double term = pair.p0 * (dot(c.cotangent, pair.row, c.v, pair.key) +
                                   dot(c.cotangent, pair.row, oracle.o, pair.row));
    gate_sums[g] += term;
    q_sums[static_cast<std::size_t>(pair.row)] += scale_of(c) * pair.gate * term;
    k_sums[static_cast<std::size_t>(pair.key)] += scale_of(c) * pair.gate * term;
  });
  return {std::ranges::max(q_sums), std::ranges::max(k_sums), std::ranges::max(gate_sums), gate_is_cut};
}

// Greatest |x - oracle| / max(unit, greatest |oracle|); infinite elements must be equal. No gradient means 0.
inline double error_of(const Tensor& x, const Tensor& oracle, double unit = 1) {
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

// The gate's gradient, and the oracle's, without the elements that are cut, which must only be finite.
inline void drop_cut_elements(const std::vector<std::uint8_t>& gate_is_cut, Tensor& grad, Tensor& oracle) {
  const Tensor& shaped = grad.defined() ? grad : oracle;
  if (!shaped.defined()) return;
  grad = grad.defined() ? grad.to(DType::f64).clone() : Tensor::zeros_like(oracle);
  oracle = oracle.defined() ? oracle.clone() : Tensor::zeros(grad.shape(), DType::f64);
  for (std::int64_t g = 0; g < oracle.numel(); ++g) {
    if (!gate_is_cut[static_cast<std::size_t>(g)]) continue;
    EXPECT_TRUE(std::isfinite(grad.item(g))) << "dgate";
    grad.data<double>()[g] = oracle.data<double>()[g] = 0;
  }
}

// The unit of a difference is the greatest element of the oracle, at least 1, the size of the inputs, and for
// the gradients through the softmax at least the greatest sum of P (|dP| + |Delta|) times what it is
// multiplied with: those are sums of many terms P (dP - Delta), of which often nothing is left.
inline void expect_close(const Case& c, const Outcome& x, const Outcome& oracle, double tolerance,
                         double* worst) {
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
  Tensor gate_grad = x.grads[3], expected = oracle.grads[3];
  if (x.o.dtype() != DType::f64) drop_cut_elements(units.gate_is_cut, gate_grad, expected);
  expect("dgate", gate_grad, expected, units.gate);
}

}  // namespace filigree::test
