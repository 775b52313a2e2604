// One random instance of each op of the core on demand: what core_ops_properties.cpp runs its tests over.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "core/ops.h"
#include "tests/gradcheck.h"
#include "tests/test_ops.h"

namespace filigree {

// A call of an op on differentiable inputs (f64) and integer tensors (ids, targets, bounds).
struct OpInstance {
  std::function<Var(const std::vector<Var>&, const std::vector<Tensor>&)> f;
  std::vector<Tensor> inputs;
  std::vector<Tensor> integers = {};
};

struct OpMaker {
  const char* name;
  // Dimensions up to `largest`.
  OpInstance (*make)(Random& random, std::int64_t largest);
};

inline void PrintTo(const OpMaker& op, std::ostream* out) {
  *out << op.name;
}

namespace op_makers {

using Vars = std::vector<Var>;
using Tensors = std::vector<Tensor>;
using std::int64_t;

inline OpInstance matmul(Random& r, int64_t n) {
  const bool ta = r.coin(), tb = r.coin();
  Shape batch;
  for (int64_t rank = r.range(0, 2); rank > 0; --rank) batch = batch.append(r.size(1, 5));
  const int64_t m = r.size(0, n), k = r.size(1, n), columns = r.size(1, n);
  const Shape a = ta ? batch.append(k).append(m) : batch.append(m).append(k);
  const Shape b = tb ? batch.append(columns).append(k) : batch.append(k).append(columns);
  return {[=](const Vars& v, const Tensors&) { return ops::matmul(v[0], v[1], ta, tb); },
          {r.normal(a), r.normal(b)}};
}

inline OpInstance linear(Random& r, int64_t n) {
  const int64_t in = r.size(1, n), out = r.size(1, n);
  Shape x = r.coin() ? Shape{r.size(0, n)} : r.shape(3, n);
  Tensors inputs{r.normal(x.append(in)), r.normal({out, in})};
  if (r.coin()) inputs.push_back(r.normal({out}));
  return {[](const Vars& v, const Tensors&) { return ops::linear(v[0], v[1], v.size() > 2 ? v[2] : Var{}); },
          inputs};
}

inline OpInstance gelu_mlp(Random& r, int64_t n) {
  const int64_t in = r.size(1, n), hidden = r.size(1, n), out = r.size(1, n);
  const auto kind = r.coin() ? ops::Gelu::erf : ops::Gelu::tanh;
  const bool bias = r.coin();
  Tensors inputs{r.normal(r.shape(2, n).append(in)), r.normal({hidden, in}), r.normal({out, hidden})};
  if (bias) inputs.insert(inputs.end(), {r.normal({hidden}), r.normal({out})});
  return {[=](const Vars& v, const Tensors&) {
            return ops::gelu_mlp(v[0], {v[1], bias ? v[3] : Var{}}, {v[2], bias ? v[4] : Var{}}, kind);
          },
          inputs};
}

inline OpInstance swiglu_mlp(Random& r, int64_t n) {
  const int64_t in = r.size(1, n), hidden = r.size(1, n), out = r.size(1, n);
  const bool bias = r.coin();
  Tensors inputs{r.normal(r.shape(2, n).append(in)), r.normal({hidden, in}), r.normal({hidden, in}),
                 r.normal({out, hidden})};
  if (bias) inputs.insert(inputs.end(), {r.normal({hidden}), r.normal({hidden}), r.normal({out})});
  return {[=](const Vars& v, const Tensors&) {
            const auto of = [&](std::size_t i) { return bias ? v[i] : Var{}; };
            return ops::swiglu_mlp(v[0], {v[1], of(4)}, {v[2], of(5)}, {v[3], of(6)});
          },
          inputs};
}

// Both results, so that both gradients flow; or one of them.
inline OpInstance add_norm(Random& r, int64_t n) {
  const Shape shape = r.shape(2, n).append(r.size(8, 2 * n + 8));  // few features amplify rounding
  const int64_t used = r.range(0, 2);
  const bool centred = r.coin(), bias = centred && r.coin();
  Tensors inputs{r.normal(shape), r.normal(shape), r.normal({shape[-1]})};
  if (bias) inputs.push_back(r.normal({shape[-1]}));
  return {[=](const Vars& v, const Tensors&) {
            const ops::Normed y = centred ? ops::add_layer_norm(v[0], v[1], v[2], bias ? v[3] : Var{}, 1e-5)
                                          : ops::add_rms_norm(v[0], v[1], v[2], 1e-5);
            if (used == 0) return ops::add(y.normed, ops::scale(v[2], 0));
            return used == 1 ? ops::add(y.sum, y.normed) : ops::mul(y.sum, y.normed);
          },
          inputs};
}

inline Tensor targets(Random& r, int64_t rows, int64_t classes) {
  Tensor t = r.integers({rows}, 0, classes - 1);
  const bool all = r.range(0, 9) == 0;
  for (int64_t i = 0; i < rows; ++i)
    if (all || r.range(0, 3) == 0) t.data<std::int32_t>()[i] = ops::kIgnoreIndex;
  return t;
}

inline OpInstance cross_entropy(Random& r, int64_t n) {
  const int64_t rows = r.size(0, n), classes = r.size(1, n);
  return {[](const Vars& v, const Tensors& t) { return ops::cross_entropy(v[0], t[0]); },
          {r.normal({rows, classes})},
          {targets(r, rows, classes)}};
}

inline OpInstance linear_cross_entropy(Random& r, int64_t n) {
  const int64_t rows = r.size(0, n), classes = r.size(1, n), width = r.size(1, n);
  const bool given = r.coin();
  const double denominator = r.stream().uniform() * 10 + 1;
  Tensors inputs{r.normal({rows, width}), r.normal({classes, width}, DType::f64, 0.5)};
  if (r.coin()) inputs.push_back(r.normal({classes}));
  return {[=](const Vars& v, const Tensors& t) {
            const Tensor divisor = Tensor::full({1}, denominator, DType::f64, v[0].device());
            return ops::linear_cross_entropy(v[0], v[1], v.size() > 2 ? v[2] : Var{}, t[0],
                                             given ? divisor : Tensor{});
          },
          inputs,
          {targets(r, rows, classes)}};
}

inline OpInstance embedding(Random& r, int64_t n) {
  const int64_t vocab = r.size(1, n);
  const Shape ids = r.coin() ? Shape{r.size(0, 4 * n)} : r.shape(2, n);
  return {[](const Vars& v, const Tensors& t) { return ops::embedding(v[0], t[0]); },
          {r.normal({vocab, r.size(1, 3 * n)})},
          {r.integers(ids, 0, vocab - 1)}};
}

inline OpInstance sum(Random& r, int64_t n) {
  return {[](const Vars& v, const Tensors&) { return ops::sum(v[0]); }, {r.normal(r.shape(3, n))}};
}
inline OpInstance sum_last(Random& r, int64_t n) {
  const Shape rows = r.coin() ? r.shape(2, n) : Shape{r.size(0, n)};
  return {[](const Vars& v, const Tensors&) { return ops::sum_last(v[0]); },
          {r.normal(rows.append(r.size(0, n)))}};
}

inline OpInstance mean_rows(Random& r, int64_t n) {
  const int64_t batch = r.size(1, 4), rows = r.size(1, n);
  Tensor bounds = Tensor::empty({batch, 2}, DType::i32);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t low = r.range(0, rows), high = r.range(low, rows);  // some empty
    bounds.data<std::int32_t>()[2 * b] = static_cast<std::int32_t>(low);
    bounds.data<std::int32_t>()[2 * b + 1] = static_cast<std::int32_t>(high);
  }
  return {[](const Vars& v, const Tensors& t) { return ops::mean_rows(v[0], t[0]); },
          {r.normal({batch, rows, r.size(1, 2 * n)})},
          {bounds}};
}

inline OpInstance reshape(Random& r, int64_t n) {
  const int64_t a = r.size(1, n), b = r.size(1, n), c = r.size(1, n);
  const Shape to = r.coin() ? Shape{a * b, -1} : Shape{c, b, a};
  return {[=](const Vars& v, const Tensors&) { return ops::reshape(v[0], to); }, {r.normal({a, b, c})}};
}

inline OpInstance slice(Random& r, int64_t n) {
  const Shape shape = r.shape(3, n);
  const int64_t begin = r.range(0, shape[0]), end = r.range(begin, shape[0]);
  return {[=](const Vars& v, const Tensors&) { return ops::slice(v[0], begin, end); }, {r.normal(shape)}};
}

// Some of the parts, in another order.
inline OpInstance split_last(Random& r, int64_t n) {
  std::vector<int64_t> sizes;
  for (int64_t i = r.range(2, 4); i > 0; --i) sizes.push_back(r.size(1, n));
  int64_t width = 0;
  for (const auto s : sizes) width += s;
  const bool drop = r.coin();
  return {[=](const Vars& v, const Tensors&) {
            Vars parts = ops::split_last(v[0], sizes);
            std::ranges::reverse(parts);
            if (drop) parts.pop_back();
            return ops::concat_last(parts);
          },
          {r.normal(r.shape(2, n).append(width))}};
}

inline OpInstance concat_last(Random& r, int64_t n) {
  const Shape rows = r.coin() ? r.shape(2, n) : Shape{r.size(0, n)};
  Tensors parts;
  for (int64_t i = r.range(1, 4); i > 0; --i) parts.push_back(r.normal(rows.append(r.size(0, n))));
  return {[](const Vars& v, const Tensors&) { return ops::concat_last(v); }, parts};
}

inline OpInstance permute(Random& r, int64_t n) {
  const Shape shape = r.coin() ? r.shape(3, n) : r.shape(5, std::min<int64_t>(n, 6));
  std::vector<int> order;
  for (int i = 0; i < shape.rank(); ++i) order.insert(order.begin() + r.range(0, i), i);
  return {[=](const Vars& v, const Tensors&) { return ops::permute(v[0], order); }, {r.normal(shape)}};
}

inline OpInstance repeat_heads(Random& r, int64_t n) {
  const int64_t times = r.size(1, 4);
  return {[=](const Vars& v, const Tensors&) { return ops::repeat_heads(v[0], times); },
          {r.normal({r.size(0, 3), r.size(1, n), r.size(1, 4), r.size(1, n)})}};
}

inline constexpr std::array kAll{
    OpMaker{"matmul", matmul},
    OpMaker{"linear", linear},
    OpMaker{"gelu_mlp", gelu_mlp},
    OpMaker{"swiglu_mlp", swiglu_mlp},
    OpMaker{"add_norm", add_norm},
    OpMaker{"cross_entropy", cross_entropy},
    OpMaker{"linear_cross_entropy", linear_cross_entropy},
    OpMaker{"embedding", embedding},
    OpMaker{"sum", sum},
    OpMaker{"sum_last", sum_last},
    OpMaker{"mean_rows", mean_rows},
    OpMaker{"reshape", reshape},
    OpMaker{"slice", slice},
    OpMaker{"split_last", split_last},
    OpMaker{"concat_last", concat_last},
    OpMaker{"permute", permute},
    OpMaker{"repeat_heads", repeat_heads},
};

}  // namespace op_makers
}  // namespace filigree
