#include "core/module.h"

#include <algorithm>
#include <cmath>

#include "core/ops.h"
#include "core/parallel.h"

namespace filigree {

Var dropout(const Var& x, double p, std::uint32_t site, const ForwardContext& context) {
  if (!context.training || p == 0) return x;
  return ops::dropout(x, p, {context.seed, site, context.step}, context.step_base);
}

std::vector<Parameter*> Module::parameters() {
  std::vector<Parameter*> all;
  visit([&](Parameter& p) { all.push_back(&p); });
  return all;
}

std::int64_t Module::parameter_count() {
  std::int64_t count = 0;
  visit([&](Parameter& p) { count += p.var.numel(); });
  return count;
}

std::string Module::parameter_table() {
  std::size_t name_width = 5, shape_width = 0;  // "total"
  visit([&](Parameter& p) {
    name_width = std::max(name_width, p.name.size());
    shape_width = std::max(shape_width, p.var.shape().str().size());
  });
  std::string table;
  const auto line = [&](const std::string& name, const std::string& shape, std::int64_t count) {
    table += fmt::format("{:<{}}  {:<{}}  {:>11}\n", name, name_width, shape, shape_width, count);
  };
  visit([&](Parameter& p) { line(p.name, p.var.shape().str(), p.var.numel()); });
  line("total", "", parameter_count());
  return table;
}

void fill_normal(Tensor& x, double deviation, RandomKey key) {
  constexpr std::int64_t kGrain = 1 << 14;  // elements of a task; a multiple of 4
  constexpr float kTwoPi = 6.2831853f;
  float* values = x.data<float>();
  const auto scale = static_cast<float>(deviation);
  const auto uniform = [](std::uint32_t bits) {
    return (static_cast<float>(bits) + 0.5f) * 0x1p-32f;
  };  // (0, 1]
  parallel_for(x.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; i += 4) {
      const PhiloxCounter bits = key.block(static_cast<std::uint64_t>(i) / 4);
      float four[4];
      for (int pair = 0; pair < 4; pair += 2) {
        const float radius = scale * std::sqrt(-2.0f * std::log(uniform(bits[pair])));
        const float angle = kTwoPi * uniform(bits[pair + 1]);
        four[pair] = radius * std::cos(angle);
        four[pair + 1] = radius * std::sin(angle);
      }
      std::copy_n(four, std::min<std::int64_t>(4, end - i), values + i);
    }
  });
}

Parameter ParameterFactory::normal(const std::string& name, const Shape& shape, double deviation) const {
  const bool decay = shape.rank() >= 2;
  if (device.is_meta()) return {name, Var(Tensor::empty(shape, dtype, device), true), decay};
  Tensor value = Tensor::empty(shape);
  fill_normal(value, deviation, {seed, random_site(name), 0});
  return {name, Var(value.to(dtype).to(device), true), decay};
}

Parameter ParameterFactory::constant(const std::string& name, const Shape& shape, double value) const {
  return {name, Var(Tensor::full(shape, value, dtype, device), true), shape.rank() >= 2};
}

}  // namespace filigree
