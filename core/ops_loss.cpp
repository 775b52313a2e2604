// Cross-entropy, of logits and of a linear layer.
#include "core/ops_common.h"

namespace filigree::ops {
namespace {

void require_targets(const char* op, const Tensor& x, const Tensor& targets) {
  require(x.rank() == 2 && targets.shape() == Shape{x.dim(0)}, "[{}] targets {} for {}", op,
          targets.shape().str(), x.shape().str());
  require_indices(op, "targets", targets, x);
}

// The number of targets that count; also checks them.
Tensor target_count(const Tensor& targets, std::int64_t n_classes) {
  Tensor count = Tensor::empty({1}, DType::f64, targets.device());
  on_device(targets.device(), [&](auto context) { count_targets(context, targets, n_classes, count); });
  return count;
}

Tensor total(const Tensor& row_losses, const Tensor& divisor) {
  return computed({1}, row_losses,
                  [&](auto context, Tensor& y) { divide_sum(context, row_losses, divisor, y); });
}

// Rows of logits at a time. A chunk's product adds to the whole gradient of w, so a chunk may be as large as
// w, within bounds: on a CPU products become inefficient below 16 MiB, and above 64 MiB nothing is gained; a
// GPU wants more rows at once, in whole tiles of its products.
std::int64_t chunk_rows(std::int64_t rows, const Tensor& w) {
  constexpr std::int64_t kMiB = std::int64_t{1} << 20, kTile = 256;
  const std::int64_t row_bytes = std::max<std::int64_t>(1, w.dim(0) * dtype_size(w.dtype()));
  std::int64_t n = std::clamp(w.bytes(), 16 * kMiB, 64 * kMiB) / row_bytes;
  if (w.device().like_cuda()) n = std::max(kTile, 512 * kMiB / row_bytes / kTile * kTile);
  return std::clamp<std::int64_t>(n, 1, std::max<std::int64_t>(rows, 1));
}

struct LinearGradients {
  Tensor x, w, bias;
};

// One chunk: its losses and, where gradients are wanted, its rows of dx and its share of dw and dbias.
void run_chunk(std::int64_t begin, const Tensor& x, const Tensor& w, const Tensor& bias,
               const Tensor& targets, const Tensor& divisor, bool record, Tensor& logits, Tensor& row_losses,
               LinearGradients& grads) {
  linear_into(x, w, bias, logits);
  if (!record) {
    Tensor not_kept;
    on_device(x.device(),
              [&](auto context) { cross_entropy_forward(context, logits, targets, row_losses, not_kept); });
    return;
  }
  on_device(x.device(),
            [&](auto context) { cross_entropy_in_place(context, targets, divisor, logits, row_losses); });
  const Tensor& dlogits = logits;
  if (grads.x.defined()) {
    Tensor dx = grads.x.slice(begin, begin + x.dim(0));
    matmul_into(dlogits, w, false, false, 0, dx);
  }
  if (grads.w.defined()) matmul_into(dlogits, x, true, false, begin > 0, grads.w);
  if (grads.bias.defined()) {
    Tensor share = Tensor::empty_like(grads.bias);
    on_device(x.device(), [&](auto context) { sum_leading(context, dlogits, share); });
    add_in_place(grads.bias, share);
  }
}

}  // namespace

Var cross_entropy(const Var& logits, const Tensor& targets) {
  require_computing("cross_entropy", logits.value());
  require_targets("cross_entropy", logits.value(), targets);
  const std::int64_t rows = logits.dim(0);
  const Tensor divisor = target_count(targets, logits.dim(1));
  Tensor softmax_rows = empty_sum({rows, 2}, logits.value()), row_losses = empty_sum({rows}, logits.value());
  on_device(logits.device(), [&](auto context) {
    cross_entropy_forward(context, logits.value(), targets, row_losses, softmax_rows);
  });
  return make_result("cross_entropy", total(row_losses, divisor), {logits},
                     [x = logits.value(), targets, softmax_rows, divisor](const Tensor& dy) {
                       return std::vector<Tensor>{computed(x.shape(), x, [&](auto context, Tensor& dx) {
                         cross_entropy_backward(context, dy, x, targets, softmax_rows, divisor, dx);
                       })};
                     });
}

Var linear_cross_entropy(const Var& x, const Var& w, const Var& bias, const Tensor& targets,
                         const Tensor& denominator, Tensor* row_losses) {
  constexpr const char* kOp = "linear_cross_entropy";
  require_parameter(kOp, w.value(), x.value());
  require_targets(kOp, x.value(), targets);
  require(w.rank() == 2 && w.dim(1) == x.dim(1), "[{}] x {} with weight {}", kOp, x.shape().str(),
          w.shape().str());
  require(!denominator.defined() || (denominator.dtype() == DType::f64 && denominator.numel() == 1 &&
                                     denominator.device() == x.device()),
          "[{}] the denominator is not one f64 on {}", kOp, x.device().str());
  if (bias.defined()) {
    require_parameter(kOp, bias.value(), x.value());
    require(bias.shape() == Shape{w.dim(0)}, "[{}] bias {} with weight {}", kOp, bias.shape().str(),
            w.shape().str());
  }
  const bool record = recording({x, w, bias});
  const Tensor w_rounded = w.value().to(x.dtype());
  const Tensor bias_rounded = bias.defined() ? bias.value().to(x.dtype()) : Tensor{};
  const std::int64_t rows = x.dim(0), chunk = chunk_rows(rows, w_rounded);
  const Tensor count = target_count(targets, w.dim(0)), divisor = denominator.defined() ? denominator : count;
  Tensor losses = empty_sum({rows}, x.value());
  LinearGradients grads;
  if (record && x.requires_grad()) grads.x = Tensor::empty_like(x.value());
  if (record && w.requires_grad())
    grads.w = rows ? Tensor::empty_like(w.value()) : Tensor::zeros_like(w.value());
  if (record && bias.requires_grad()) grads.bias = Tensor::zeros_like(bias.value());
  {
    const Tensor buffer = Tensor::empty({chunk, w.dim(0)}, x.dtype(), x.device());
    for (std::int64_t begin = 0; begin < rows; begin += chunk) {
      const std::int64_t end = std::min(rows, begin + chunk);
      Tensor logits = buffer.slice(0, end - begin), chunk_losses = losses.slice(begin, end);
      run_chunk(begin, x.value().slice(begin, end), w_rounded, bias_rounded, targets.slice(begin, end),
                divisor, record, logits, chunk_losses, grads);
    }
  }
  if (row_losses) *row_losses = losses;
  // The gradients are known already; the tape runs this once.
  return make_result(kOp, total(losses, divisor), {x, w, bias}, [grads](const Tensor& dy) mutable {
    for (Tensor* g : {&grads.x, &grads.w, &grads.bias})
      if (g->defined()) on_device(g->device(), [&](auto context) { scale_by(context, dy, *g); });
    return std::vector<Tensor>{std::move(grads.x), std::move(grads.w), std::move(grads.bias)};
  });
}

}  // namespace filigree::ops
