#include "tests/attention_reference.h"

#include <cmath>
#include <limits>

#include "tests/test_ops.h"

namespace filigree {
namespace {

struct Sizes {
  std::int64_t B, N, M, H, G, D;
  std::int64_t layout_heads;  // 0: all sequences share the layout; H: each has its own
};

// Every pair's tile as an index into the gate, i32 [B, H, N, M]; 0 outside the layout's tiles.
Tensor gate_indices(const Sizes& s, const TileLayout& layout, bool per_batch) {
  Tensor indices = Tensor::zeros({s.B, s.H, s.N, s.M}, DType::i32);
  const std::int64_t T = layout.tile();
  for (std::int64_t b = 0; b < s.B; ++b)
    for (std::int64_t h = 0; h < s.H; ++h) {
      const auto head = static_cast<int>(b * s.layout_heads + h);
      const TilePattern& pattern = layout.of_head(head);
      const std::int64_t offset = layout.gate_offset(head) + (per_batch ? b * layout.gate_size() : 0);
      for (std::int64_t i = 0; i < s.N; ++i)
        for (auto t = pattern.row_offsets[i / T]; t < pattern.row_offsets[i / T + 1]; ++t)
          for (std::int64_t j = pattern.columns[t] * T; j < std::min(s.M, (pattern.columns[t] + 1) * T); ++j)
            indices.data<std::int32_t>()[((b * s.H + h) * s.N + i) * s.M + j] =
                static_cast<std::int32_t>(offset + t);
    }
  return indices;
}

// 1 where a pair is allowed by the pattern and the row's bounds, [B, H, N, M].
Tensor pair_mask(const Sizes& s, const Tensor& allowed, const Tensor& row_bounds, DType dtype) {
  Tensor mask = Tensor::zeros({s.B, s.H, s.N, s.M}, DType::f64);
  for (std::int64_t b = 0; b < s.B; ++b)
    for (std::int64_t h = 0; h < s.H; ++h)
      for (std::int64_t i = 0; i < s.N; ++i)
        for (std::int64_t j = 0; j < s.M; ++j) {
          const std::int32_t* bounds =
              row_bounds.defined() ? row_bounds.data<std::int32_t>() + 2 * (b * s.N + i) : nullptr;
          const bool inside = !bounds || (bounds[0] <= j && j < bounds[1]);
          if (inside && allowed.data<std::uint8_t>()[((b * s.layout_heads + h) * s.N + i) * s.M + j])
            mask.data<double>()[((b * s.H + h) * s.N + i) * s.M + j] = 1;
        }
  return mask.to(dtype);
}

// -slope_h |i - j|, [H, N, M].
Tensor alibi_bias(const Sizes& s, const Tensor& slopes) {
  Tensor bias = Tensor::empty({s.H, s.N, s.M}, DType::f64);
  for (std::int64_t h = 0; h < s.H; ++h)
    for (std::int64_t i = 0; i < s.N; ++i)
      for (std::int64_t j = 0; j < s.M; ++j)
        bias.data<double>()[(h * s.N + i) * s.M + j] = -slopes.item(h) * static_cast<double>(std::abs(i - j));
  return bias.to(slopes.dtype());
}

// Constants that keep the softmax finite. A row's pairs count where they have a weight m > 0.
struct RowConstants {
  Tensor greatest;  // [rows, M]: the row's greatest S; S itself where the pair is not allowed
  Tensor weight;    // [rows, M]: the mask, 0 in rows without any weight
  Tensor empty;     // [rows, D]: 1 in those rows, whose sum would be 0
  std::vector<double> maximum;
};

template <class T>
RowConstants row_constants(const Sizes& s, const Tensor& scores, const Tensor& mask, const Tensor& gates) {
  RowConstants c{scores.clone(), mask.clone(), Tensor::zeros({s.B, s.H, s.N, s.D}, scores.dtype()), {}};
  for (std::int64_t row = 0; row < s.B * s.H * s.N; ++row) {
    const T* score = scores.data<T>() + row * s.M;
    const T* weight = mask.data<T>() + row * s.M;
    T greatest = -std::numeric_limits<T>::infinity();
    for (std::int64_t j = 0; j < s.M; ++j)
      if (weight[j] != 0 && gates.data<T>()[row * s.M + j] > 0) greatest = std::max(greatest, score[j]);
    c.maximum.push_back(greatest);
    const bool empty = std::isinf(greatest);
    for (std::int64_t j = 0; j < s.M; ++j) {
      if (weight[j] != 0 && !empty) c.greatest.data<T>()[row * s.M + j] = greatest;
      if (empty) c.weight.data<T>()[row * s.M + j] = 0;
    }
    if (empty) std::fill_n(c.empty.data<T>() + row * s.D, s.D, T(1));
  }
  return c;
}

}  // namespace

Tensor allowed_pairs(const TileLayout& layout) {
  const std::int64_t N = layout.n_queries(), M = layout.n_keys();
  Tensor allowed = Tensor::empty({layout.n_heads(), N, M}, DType::u8);
  for (int h = 0; h < layout.n_heads(); ++h)
    for (std::int64_t i = 0; i < N; ++i)
      for (std::int64_t j = 0; j < M; ++j)
        allowed.data<std::uint8_t>()[(h * N + i) * M + j] = layout.allows(h, i, j);
  return allowed;
}

Var reference_attention(const Var& q, const Var& k, const Var& v, const Tensor& allowed,
                        const TileLayout& layout, const AttentionOptions& options) {
  const Sizes s{q.dim(0),
                q.dim(1),
                k.dim(1),
                q.dim(2),
                k.dim(2),
                q.dim(3),
                layout.n_heads() == q.dim(2) ? 0 : q.dim(2)};
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(s.D));
  constexpr int kHeadsFirst[] = {0, 2, 1, 3};
  const Var q_BHND = ops::permute(q, kHeadsFirst);
  const Var k_BHMD = ops::permute(ops::repeat_heads(k, s.H / s.G), kHeadsFirst);
  const Var v_BHMD = ops::permute(ops::repeat_heads(v, s.H / s.G), kHeadsFirst);
  Var scores = ops::scale(ops::matmul(q_BHND, k_BHMD, false, true), scale);
  if (options.alibi_slopes.defined()) scores = ops::add(scores, Var(alibi_bias(s, options.alibi_slopes)));

  const Shape pairs = {s.B, s.H, s.N, s.M};
  Var gates(Tensor::full(pairs, 1, q.dtype()));
  if (options.gate.defined() && options.gate.numel() > 0) {
    const Tensor indices = gate_indices(s, layout, options.gate.rank() == 2);
    gates =
        ops::reshape(ops::embedding(ops::reshape(options.gate, {options.gate.numel(), 1}), indices), pairs);
  }
  const Tensor mask = pair_mask(s, allowed, options.row_bounds, q.dtype());
  const RowConstants constants = with_float(
      q.dtype(), [&]<class T>(T) { return row_constants<T>(s, scores.value(), mask, gates.value()); });

  const Var power = ops::exp(ops::sub(scores, Var(constants.greatest)));
  const Var weight = ops::mul(ops::mul(gates, Var(constants.weight)), power);
  // The sum of a row, in each of D columns.
  const Var ones(Tensor::full({s.B, s.H, s.M, s.D}, 1, q.dtype()));
  const Var sum = ops::add(ops::matmul(weight, ones), Var(constants.empty));
  if (options.lse) {
    *options.lse = Tensor::empty({s.B, s.H, s.N}, DType::f64);
    for (std::int64_t row = 0; row < s.B * s.H * s.N; ++row)
      options.lse->data<double>()[row] = constants.maximum[row] + std::log(sum.value().item(row * s.D));
    *options.lse = options.lse->to(q.dtype());
  }
  return ops::permute(ops::div(ops::matmul(weight, v_BHMD), sum), kHeadsFirst);
}

}  // namespace filigree
