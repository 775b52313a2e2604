#include "train/step.h"

#include <algorithm>
#include <cmath>

namespace filigree {
namespace {

[[noreturn]] void stop_not_finite(const std::string& what, const std::string& where, std::int64_t step) {
  throw Error(ErrorKind::numeric,
              fmt::format("step {}: {} is not finite, first in {}; the weights are those of step {}",
                          step + 1, what, where.empty() ? "the loss" : where, step),
              "lower train.lr, lengthen train.warmup_steps or set train.clip; the last checkpoint is intact");
}

}  // namespace

ModelInput model_input(const Batch& batch, const std::vector<LayoutPtr>& layouts) {
  return {batch.inputs, batch.row_bounds, batch.token_bounds, layouts};
}

StepResult run_step(Transformer& model, Optimizer& optimizer, std::span<const Batch> batches,
                    const std::vector<LayoutPtr>& layouts, const StepOptions& options) {
  StepResult result;
  for (const Batch& batch : batches) {
    result.targets += batch.n_targets;
    result.tokens += batch.n_tokens;
  }
  const double denominator = static_cast<double>(std::max<std::int64_t>(1, result.targets));
  ForwardContext context{true, options.seed, 0};
  for (std::size_t i = 0; i < batches.size(); ++i) {
    // Every micro batch of the run draws its own dropout.
    context.step = static_cast<std::uint32_t>(options.step * static_cast<std::int64_t>(batches.size()) +
                                              static_cast<std::int64_t>(i));
    const ModelInput input = model_input(batches[i], layouts);
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
