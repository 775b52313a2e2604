#include "train/step.h"

#include <algorithm>
#include <cmath>

#include "core/ops.h"

namespace filigree {
namespace {

ModelInput input_of(const MicroBatch& batch, const std::vector<LayoutPtr>& layouts) {
  return {batch.tokens, batch.row_bounds, batch.token_bounds, layouts};
}

[[noreturn]] void stop_not_finite(const std::string& what, const std::string& where, std::int64_t step) {
  throw Error(ErrorKind::numeric,
              fmt::format("step {}: {} is not finite, first in {}; the weights are those of step {}",
                          step + 1, what, where.empty() ? "the loss" : where, step),
              "lower train.lr, lengthen train.warmup_steps or set train.clip; the last checkpoint is intact");
}

}  // namespace

std::int64_t count_targets(std::span<const MicroBatch> batches) {
  std::int64_t count = 0;
  for (const MicroBatch& batch : batches) {
    if (batch.targets.device().is_meta()) {
      count += batch.targets.numel();
      continue;
    }
    const Tensor host = batch.targets.to(Device::cpu());
    count += host.numel() - std::ranges::count(host.values<std::int32_t>(), ops::kIgnoreIndex);
  }
  return count;
}

StepResult run_step(Transformer& model, Optimizer& optimizer, std::span<const MicroBatch> batches,
                    const std::vector<LayoutPtr>& layouts, const StepOptions& options) {
  StepResult result;
  result.targets = count_targets(batches);
  const double denominator = static_cast<double>(std::max<std::int64_t>(1, result.targets));
  ForwardContext context{true, options.seed, 0};
  for (std::size_t i = 0; i < batches.size(); ++i) {
    // Every micro batch of the run draws its own dropout.
    context.step = static_cast<std::uint32_t>(options.step * static_cast<std::int64_t>(batches.size()) +
                                              static_cast<std::int64_t>(i));
    const ModelInput input = input_of(batches[i], layouts);
    const Var loss = model.loss(input, batches[i].targets, context, {denominator, nullptr});
    const double value = loss.value().item();
    if (!std::isfinite(value)) {
      const std::string where = model.find_non_finite(input, context);
      optimizer.zero_grad();
      stop_not_finite("the loss", where, options.step);
    }
    result.loss += value;
    backward(loss);
  }
  result.grad_norm = optimizer.gradient_norm();
  if (!std::isfinite(result.grad_norm)) {
    const std::string where = optimizer.non_finite_gradient();
    optimizer.zero_grad();
    stop_not_finite("a gradient", where.empty() ? "the sum of all gradients" : where, options.step);
  }
  optimizer.step(options.lr, clip_scale(result.grad_norm, options.clip));
  optimizer.zero_grad();
  return result;
}

}  // namespace filigree
