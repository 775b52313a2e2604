// Modules: parameters with full names ("blocks.0.attention.qkv.weight"), visited in a fixed order.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/autograd.h"
#include "core/random.h"

namespace filigree {

struct Parameter {
  std::string name;
  Var var;
  bool decay = false;    // weight decay applies: matrices and embeddings, not biases and norms
  double lr_factor = 1;  // times the run's learning rate
  bool in_norm = true;   // its gradient counts in the norm that all gradients are clipped by
};

// All that a forward pass depends on beside its inputs and parameters.
struct ForwardContext {
  bool training = false;   // dropout is on
  std::uint64_t seed = 0;  // of the run
  std::uint32_t step = 0;  // counts micro batches, so that each one draws anew
  Tensor step_base = {};   // u32 [1] on the model's device or undefined: added to step when the kernels run
};

// The stream of random draws that belongs to a name: FNV-1a of it. A place in the model keeps its draws
// whatever is added elsewhere, and a replay of the same place repeats them.
constexpr std::uint32_t random_site(std::string_view name) {
  std::uint32_t hash = 2166136261u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}

// Dropout at a place of the model; returns x where it is off.
Var dropout(const Var& x, double p, std::uint32_t site, const ForwardContext& context);

class Module {
 public:
  using Visitor = std::function<void(Parameter&)>;

  virtual ~Module() = default;
  // Every parameter once, in the order in which the forward pass uses them.
  virtual void visit(const Visitor& visitor) = 0;

  // Valid while the module lives.
  std::vector<Parameter*> parameters();
  std::int64_t parameter_count();
  std::string parameter_table();  // one line per parameter: name, shape, count; then the total
};

// Makes parameters from a seed. A value depends only on (seed, name, element): draws are made in f32 on the
// CPU, then converted and moved.
struct ParameterFactory {
  std::uint64_t seed = 0;
  Device device = Device::cpu();
  DType dtype = DType::f32;

  Parameter normal(const std::string& name, const Shape& shape, double deviation) const;
  Parameter constant(const std::string& name, const Shape& shape, double value) const;
};

// Fills an f32 CPU tensor with normal draws of mean 0 (Box & Muller 1958, two numbers from each pair).
void fill_normal(Tensor& x, double deviation, RandomKey key);

}  // namespace filigree
