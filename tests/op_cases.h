// The ops of one or two inputs of like shapes, as cases for op_case.h: elementwise ones, norms, rope,
// dropout.
#pragma once

#include "core/ops.h"
#include "tests/op_case.h"
#include "tests/test_ops.h"

namespace filigree::op_cases {

inline std::vector<Tensor> one_normal(Random& random, const Shape& shape) {
  return {random.normal(shape)};
}
inline std::vector<Tensor> two_normal(Random& random, const Shape& shape) {
  return {random.normal(shape), random.normal(shape)};
}
inline std::vector<Tensor> one_positive(Random& random, const Shape& shape) {
  return {random.uniform(shape, 0.3, 3)};
}
// Values of both signs that keep off 0, for kinks and poles.
inline Tensor off_zero(Random& random, const Shape& shape) {
  Tensor t = random.uniform(shape, 0.3, 2);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    if (random.coin()) t.data<double>()[i] *= -1;
  return t;
}
// A second input whose shape is a random suffix of the first's; at least the last dimension.
inline std::vector<Tensor> with_suffix(Random& random, const Shape& shape) {
  const std::int64_t rank = random.range(1, shape.rank());
  return {random.normal(shape), random.normal(Shape(shape.dims().last(static_cast<std::size_t>(rank))))};
}

inline const std::vector<OpCase>& elementwise() {
  static const std::vector<OpCase> all{
      {"add", two_normal, [](const auto& v) { return ops::add(v[0], v[1]); }},
      {"add_suffix", with_suffix, [](const auto& v) { return ops::add(v[0], v[1]); }, 1e-5},
      {"sub", two_normal, [](const auto& v) { return ops::sub(v[0], v[1]); }},
      {"mul", two_normal, [](const auto& v) { return ops::mul(v[0], v[1]); }},
      {"mul_suffix", with_suffix, [](const auto& v) { return ops::mul(v[0], v[1]); }, 1e-5},
      {"mul_self", one_normal, [](const auto& v) { return ops::mul(v[0], v[0]); }},
      {"div",
       [](Random& random, const Shape& shape) {
         return std::vector<Tensor>{random.normal(shape), off_zero(random, shape)};
       },
       [](const auto& v) { return ops::div(v[0], v[1]); }},
      {"scale", one_normal, [](const auto& v) { return ops::scale(v[0], -1.75); }},
      {"exp", one_normal, [](const auto& v) { return ops::exp(v[0]); }},
      {"log", one_positive, [](const auto& v) { return ops::log(v[0]); }},
      {"sigmoid", one_normal, [](const auto& v) { return ops::sigmoid(v[0]); }},
      {"clamp",
       [](Random& random, const Shape& shape) {
         Tensor t = off_zero(random, shape);  // and off the limits
         for (std::int64_t i = 0; i < t.numel(); ++i)
           if (std::abs(std::abs(t.item(i)) - 1) < 0.1) t.data<double>()[i] *= 1.3;
         return std::vector<Tensor>{t};
       },
       [](const auto& v) { return ops::clamp(v[0], -1, 1); }},
      {"gelu_erf", one_normal, [](const auto& v) { return ops::gelu(v[0], ops::Gelu::erf); }},
      {"gelu_tanh", one_normal, [](const auto& v) { return ops::gelu(v[0], ops::Gelu::tanh); }},
      {"silu", one_normal, [](const auto& v) { return ops::silu(v[0]); }},
      {"swiglu", two_normal, [](const auto& v) { return ops::swiglu(v[0], v[1]); }},
  };
  return all;
}

inline constexpr double kNormEps = 1e-3;

inline std::vector<Tensor> norm_inputs(Random& random, const Shape& shape, bool bias) {
  const Shape width{shape[-1]};
  std::vector<Tensor> inputs{random.normal(shape), random.normal(width)};
  if (bias) inputs.push_back(random.normal(width));
  return inputs;
}

inline const std::vector<OpCase>& norms() {
  static const std::vector<OpCase> all{
      {"layer_norm", [](Random& r, const Shape& s) { return norm_inputs(r, s, true); },
       [](const auto& v) { return ops::layer_norm(v[0], v[1], v[2], kNormEps); }, 3e-5},
      {"layer_norm_without_bias", [](Random& r, const Shape& s) { return norm_inputs(r, s, false); },
       [](const auto& v) { return ops::layer_norm(v[0], v[1], {}, kNormEps); }, 3e-5},
      {"rms_norm", [](Random& r, const Shape& s) { return norm_inputs(r, s, false); },
       [](const auto& v) { return ops::rms_norm(v[0], v[1], kNormEps); }, 3e-5},
      {"softmax", one_normal, [](const auto& v) { return ops::softmax(v[0]); }, 5e-6},
  };
  return all;
}

inline OpCase rope() {
  return {"rope",
          [](Random& random, const Shape& s) {
            return std::vector<Tensor>{
                random.normal({std::min<std::int64_t>(s[0], 5), std::min<std::int64_t>(s.numel(), 331),
                               random.size(1, 3), 2 * random.size(1, 9)})};
          },
          [](const auto& v) { return ops::rope(v[0], 100, 3); }};
}

inline constexpr RandomKey kDropoutKey{.seed = 42, .site = 7, .step = 9};

inline OpCase dropout() {
  return {"dropout", one_normal, [](const auto& v) { return ops::dropout(v[0], 0.4, kDropoutKey); }};
}

}  // namespace filigree::op_cases
