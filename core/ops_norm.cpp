// Normalisation over the last dimension.
#include "core/ops_common.h"

namespace filigree::ops {
namespace {

void require_vector(const char* op, const char* name, const Var& v, const Var& x) {
  const DType type = accumulation_dtype(x.dtype());
  require(v.rank() == 1 && v.dim(0) == x.dim(-1) && v.dtype() == type && v.device() == x.device(),
          "[{}] {} {} {} on {} for x {} {} on {}; want {} [{}]", op, name, dtype_name(v.dtype()),
          v.shape().str(), v.device().str(), dtype_name(x.dtype()), x.shape().str(), x.device().str(),
          dtype_name(type), x.dim(-1));
}

void require_rows(const char* op, const Var& x) {
  require(x.rank() >= 1, "[{}] x has no dimension", op);
  require_computing(op, x.value());
}

struct NormKind {
  const char* op;
  bool centred;  // layer norm
  double eps;
};

struct Statistics {
  Tensor mean, rstd;  // of each row; RMS norm has no mean
};

Statistics make_statistics(const NormKind& kind, const Var& x, const Var& weight, const Var& bias) {
  require_rows(kind.op, x);
  require_vector(kind.op, "weight", weight, x);
  if (bias.defined()) require_vector(kind.op, "bias", bias, x);
  const Tensor rstd = empty_sum({x.shape().drop_last().numel()}, x.value());
  return {kind.centred ? Tensor::empty_like(rstd) : Tensor{}, rstd};
}

// A backward needs x, which is alive anyhow, and two numbers per row.
struct Saved {
  Tensor x, weight;
  Statistics rows;
  bool wants_x, wants_weight, has_bias, wants_bias;

  // The gradients of x (dsum, if defined, added), weight and, if there is one, bias.
  std::vector<Tensor> gradients(const Tensor& dy, const Tensor& dsum) const {
    Tensor dx, dweight, dbias;
    if (wants_x) dx = Tensor::empty_like(x);
    if (wants_weight) dweight = Tensor::empty_like(weight);
    if (wants_bias) dbias = Tensor::empty_like(weight);
    on_device(x.device(), [&](auto context) {
      norm_backward(context, dy, x, weight, rows.mean, rows.rstd, dsum, dx, dweight, dbias);
    });
    std::vector<Tensor> grads{dx, dweight};
    if (has_bias) grads.push_back(dbias);
    return grads;
  }
};

std::vector<Var> with_parameters(std::vector<Var> inputs, const Var& weight, const Var& bias) {
  inputs.push_back(weight);
  if (bias.defined()) inputs.push_back(bias);
  return inputs;
}

Var norm(const NormKind& kind, const Var& x, const Var& weight, const Var& bias) {
  Statistics rows = make_statistics(kind, x, weight, bias);
  Tensor y = Tensor::empty_like(x.value());
  on_device(x.device(), [&](auto context) {
    norm_forward(context, x.value(), weight.value(), bias.value(), kind.eps, y, rows.mean, rows.rstd);
  });
  const Saved saved{x.value(),      weight.value(),      rows, x.requires_grad(), weight.requires_grad(),
                    bias.defined(), bias.requires_grad()};
  return make_result(kind.op, y, with_parameters({x}, weight, bias),
                     [saved](const Tensor& dy) { return saved.gradients(dy, {}); });
}

Normed add_norm(const NormKind& kind, const Var& x, const Var& branch, const Var& weight, const Var& bias) {
  Statistics rows = make_statistics(kind, x, weight, bias);
  require_same_kind(kind.op, x.value(), branch.value());
  require(x.shape() == branch.shape(), "[{}] {} with a branch {}", kind.op, x.shape().str(),
          branch.shape().str());
  Tensor sum = Tensor::empty_like(x.value()), y = Tensor::empty_like(x.value());
  on_device(x.device(), [&](auto context) {
    add_norm_forward(context, x.value(), branch.value(), weight.value(), bias.value(), kind.eps, sum, y,
                     rows.mean, rows.rstd);
  });
  const Saved saved{sum,
                    weight.value(),
                    rows,
                    x.requires_grad() || branch.requires_grad(),
                    weight.requires_grad(),
                    bias.defined(),
                    bias.requires_grad()};
  const auto results = make_results(kind.op, {sum, y}, with_parameters({x, branch}, weight, bias),
                                    [saved](std::span<const Tensor> output_grads) {
                                      const Tensor &dsum = output_grads[0], &dy = output_grads[1];
                                      // The sum's gradient goes to both of its terms.
                                      std::vector<Tensor> grads =
                                          dy.defined() ? saved.gradients(dy, dsum)
                                                       : std::vector<Tensor>(saved.has_bias ? 3 : 2);
                                      if (!dy.defined()) grads[0] = dsum;
                                      grads.insert(grads.begin(), grads[0]);
                                      return grads;
                                    });
  return {results[0], results[1]};
}

}  // namespace

Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps) {
  return norm({"layer_norm", true, eps}, x, weight, bias);
}

Var rms_norm(const Var& x, const Var& weight, double eps) {
  return norm({"rms_norm", false, eps}, x, weight, {});
}

Normed add_layer_norm(const Var& x, const Var& branch, const Var& weight, const Var& bias, double eps) {
  return add_norm({"add_layer_norm", true, eps}, x, branch, weight, bias);
}

Normed add_rms_norm(const Var& x, const Var& branch, const Var& weight, double eps) {
  return add_norm({"add_rms_norm", false, eps}, x, branch, weight, {});
}

Var softmax(const Var& x) {
  require_rows("softmax", x);
  Tensor y = Tensor::empty_like(x.value());
  on_device(x.device(), [&](auto context) { softmax_forward(context, x.value(), y); });
  return make_result("softmax", y, {x}, [y](const Tensor& dy) {
    Tensor dx = Tensor::empty_like(y);
    on_device(dy.device(), [&](auto context) { softmax_backward(context, dy, y, dx); });
    return std::vector<Tensor>{dx};
  });
}

}  // namespace filigree::ops
