// Reverse-mode automatic differentiation on a tape.
//
// A Var is a tensor plus, where a gradient is wanted, a slot that collects it. The tape keeps slots and what
// a backward function saved, never whole inputs: a value that no backward needs is freed at once. backward()
// frees the tape as it goes.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace filigree {

struct GradSlot;

class Var {
 public:
  Var() = default;
  // A leaf. With requires_grad, backward() leaves its gradient in grad().
  explicit Var(Tensor value, bool requires_grad = false);

  bool defined() const { return value_.defined(); }
  const Tensor& value() const { return value_; }
  Tensor& value() { return value_; }
  const Shape& shape() const { return value_.shape(); }
  std::int64_t dim(int i) const { return value_.dim(i); }
  int rank() const { return value_.rank(); }
  std::int64_t numel() const { return value_.numel(); }
  DType dtype() const { return value_.dtype(); }
  Device device() const { return value_.device(); }

  bool requires_grad() const { return slot_ != nullptr; }
  const Tensor& grad() const;  // undefined where nothing arrived; kept for leaves only
  void zero_grad();            // forgets the gradient
  Var detach() const { return Var(value_); }
  // The same gradient slot over another view of the value is wrong; use ops::reshape.

 private:
  friend struct Tape;
  Tensor value_;
  std::shared_ptr<GradSlot> slot_;
};

// Gradients of the inputs given that of the output; an undefined tensor means "none". It is not called where
// no gradient reaches the output. It may return the same tensor for several inputs, or its argument.
using Backward = std::function<std::vector<Tensor>(const Tensor& output_grad)>;
// The same for several outputs; a gradient that never came is undefined.
using MultiBackward = std::function<std::vector<Tensor>(std::span<const Tensor> output_grads)>;

// True if an op on these inputs must be recorded: gradients are on and an input requires one.
bool recording(std::span<const Var> inputs);
inline bool recording(std::initializer_list<Var> inputs) {
  return recording(std::span<const Var>(inputs.begin(), inputs.size()));
}

// The result of an op. Records `backward` if recording(inputs); else drops it, with what it saved.
Var make_result(const char* op, Tensor value, std::vector<Var> inputs, Backward backward);
std::vector<Var> make_results(const char* op, std::vector<Tensor> values, std::vector<Var> inputs,
                              MultiBackward backward);

// Adds d(loss)/d(leaf) to the gradient of every leaf that requires one. `seed` is d(result)/d(loss), by
// default 1 for a scalar.
void backward(const Var& loss, Tensor seed = {});

// While one lives, ops on this thread record nothing.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool before_;
};
bool grad_enabled();

// Activation checkpointing (Chen et al. 2016): runs f without a tape and keeps only x; backward runs f again.
// f must be a pure function of x and of leaves: its random draws come from fixed RandomKeys, not from a
// counter.
Var checkpoint(const std::function<Var(const Var&)>& f, const Var& x);

}  // namespace filigree
