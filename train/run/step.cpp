#include "train/run/step.h"

#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/kernels.h"
#include "train/evaluate/evaluate.h"

namespace filigree {
namespace {

constexpr std::size_t kSlots = 4;  // steps under way on a GPU; their inputs and results have a slot each

constexpr std::array kBatchTensors = {&Batch::inputs, &Batch::targets, &Batch::row_bounds,
                                      &Batch::token_bounds};

// Each input starts at a multiple of 64 bytes of a slot's buffer.
std::int64_t padded(std::int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// Tensors of a planned run hold nothing to copy.
bool holds_values(const Tensor& input) {
  return !input.device().is_meta();
}

std::int64_t staged_bytes(const Batch& batch) {
  std::int64_t bytes = 0;
  for (const auto member : kBatchTensors)
    if (holds_values(batch.*member)) bytes += padded((batch.*member).bytes());
  return bytes;
}

}  // namespace

Stepper::Stepper(Transformer& model, Optimizer& optimizer, const StepOptions& options)
    : model_(model),
      optimizer_(optimizer),
      options_(options),
      device_(model.device()),
      scalars_(Tensor::zeros({optimizer.n_rates() + 1}, DType::f64, device_)),
      step_(Tensor::zeros({1}, DType::u32, device_)),
      halted_(Tensor::zeros({1}, DType::u32, device_)),
      results_(Tensor::zeros({2}, DType::f64, device_)) {}

void Stepper::make_inputs(const Batch& like) {
  for (std::int64_t i = 0; i < options_.micro_batches; ++i) {
    Batch batch;
    for (const auto member : kBatchTensors)
      batch.*member = Tensor::empty((like.*member).shape(), DType::i32, device_);
    inputs_.push_back(std::move(batch));
  }
  const std::int64_t bytes =
      padded(scalars_.bytes()) + padded(step_.bytes()) + options_.micro_batches * staged_bytes(like);
  for (std::size_t i = 0; i < (device_.like_cuda() ? kSlots : 1); ++i)
    slots_.push_back(
        {HostBuffer(bytes, device_), HostBuffer(results_.bytes(), device_), Event(device_), Event(device_)});
}

void Stepper::upload(const Pending& pending) {
  Slot& slot = slots_[pending.slot];
  slot.copied.wait();
  std::int64_t offset = 0;
  const auto put = [&](Tensor& to, const void* from) {
    std::memcpy(slot.inputs.data<char>() + offset, from, to.bytes());
    copy_async(to, slot.inputs, offset);
    offset += padded(to.bytes());
  };
  std::vector<double> scalars = optimizer_.next_rates(pending.result.lr);
  scalars.push_back(static_cast<double>(std::max<std::int64_t>(1, pending.result.targets)));
  const auto first = static_cast<std::uint32_t>(pending.result.step * options_.micro_batches);
  put(scalars_, scalars.data());
  put(step_, &first);
  for (std::size_t i = 0; i < pending.batches.size(); ++i)
    for (const auto member : kBatchTensors) {
      const Tensor& from = pending.batches[i].*member;
      check((inputs_[i].*member).shape() == from.shape(),
            "a step's batch has another shape than those before");
      if (holds_values(from)) put(inputs_[i].*member, from.raw_data());
    }
  slot.copied.record();
}

Tensor Stepper::denominator() const {
  return scalars_.slice(optimizer_.n_rates(), scalars_.numel());
}

ForwardContext Stepper::context(std::int64_t micro_batch) const {
  return {true, options_.seed, static_cast<std::uint32_t>(micro_batch), step_};
}

// Everything here may be captured: it depends on nothing but tensors that stay.
void Stepper::run() {
  Tensor total;
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    const Var loss = model_.loss(model_input(inputs_[i], device_), inputs_[i].targets,
                                 context(static_cast<std::int64_t>(i)), {denominator(), nullptr});
    if (i == 0)
      total = loss.value().clone();
    else
      ops::add_in_place(total, loss.value());
    backward(loss);
  }
  const StepControl control{scalars_.slice(0, optimizer_.n_rates()), optimizer_.sum_of_squares(), halted_,
                            options_.clip};
  on_device(device_, [&](auto context) {
    halt_if_not_finite(context, total, control.sum_of_squares, halted_);
    if (const Tensor others = optimizer_.sum_of_squares(false); others.defined())
      halt_if_not_finite(context, total, others, halted_);
  });
  optimizer_.step(control);
  optimizer_.zero_grad();
  results_.slice(0, 1).copy_from(total.to(DType::f64));
  results_.slice(1, 2).copy_from(control.sum_of_squares);
}

void Stepper::submit(std::vector<Batch> batches, std::int64_t step, double lr) {
  check(std::ssize(batches) == options_.micro_batches, "a step was given another number of micro batches");
  if (inputs_.empty()) make_inputs(batches[0]);
  check(pending_.size() < slots_.size(), "a step was submitted before the results of earlier ones were read");
  Pending pending{
      {step, lr, 0, 0, 0, 0}, std::move(batches), static_cast<std::size_t>(submitted_) % slots_.size()};
  for (const Batch& batch : pending.batches) {
    pending.result.targets += batch.n_targets;
    pending.result.tokens += batch.n_tokens;
  }
  upload(pending);
  const bool is_static = model_.patterns_are_static();
  model_.advance({step,
                  static_cast<double>(step) / static_cast<double>(std::max<std::int64_t>(1, options_.steps)),
                  options_.seed});
  if (options_.graph && warm_) {
    if (!graph_) {
      // A step before has made what stays (layouts, plans of products); the graph gets memory of its own.
      synchronize(device_);
      allocator(device_).release_cached();
      graph_.emplace(device_, [this] { run(); });
    }
    graph_->launch();
  } else {
    run();
    warm_ = is_static;
  }
  Slot& slot = slots_[pending.slot];
  copy_async(slot.results, results_);
  slot.done.record();
  ++submitted_;
  pending_.push_back(std::move(pending));
}

std::optional<StepResult> Stepper::next(bool wait) {
  if (pending_.empty() || (!wait && pending_.size() < slots_.size())) return std::nullopt;
  Pending oldest = std::move(pending_.front());
  pending_.pop_front();
  const Slot& slot = slots_[oldest.slot];
  slot.done.wait();
  const double* values = slot.results.data<double>();
  oldest.result.loss = values[0];
  oldest.result.grad_norm = std::sqrt(values[1]);
  if (!std::isfinite(values[0]) || !std::isfinite(values[1])) stop_not_finite(oldest);
  return oldest.result;
}

// Repeats the step, which changed nothing, piece by piece.
void Stepper::stop_not_finite(const Pending& pending) {
  synchronize(device_);
  pending_.clear();
  graph_.reset();
  optimizer_.zero_grad();
  upload(pending);
  std::string what, where;
  for (std::size_t i = 0; i < inputs_.size() && what.empty(); ++i) {
    const ForwardContext forward = context(static_cast<std::int64_t>(i));
    const ModelInput input = model_input(inputs_[i], device_);
    const Var loss = model_.loss(input, inputs_[i].targets, forward, {denominator(), nullptr});
    if (std::isfinite(loss.value().item())) {
      backward(loss);
      continue;
    }
    what = "the loss";
    where = model_.find_non_finite(input, forward);
    if (where.empty()) where = "the loss";
  }
  if (what.empty()) {
    what = "a gradient";
    where = optimizer_.non_finite_gradient();
    if (where.empty()) where = "the sum of all gradients";
  }
  optimizer_.zero_grad();
  throw Error(ErrorKind::numeric,
              fmt::format("step {}: {} is not finite, first in {}; the weights are those of step {}",
                          pending.result.step + 1, what, where, pending.result.step),
              "lower train.lr, lengthen train.warmup_steps or set train.clip; the last checkpoint is intact");
}

}  // namespace filigree
