#include "attention/sparse_attention.h"

#include <cmath>

#include "attention/kernels.h"

namespace filigree {
namespace {

void check_tensor(const Tensor& t, const char* name, const Shape& shape, DType dtype, Device device) {
  require(t.shape() == shape, "[sparse_attention] {} has shape {}, expected {}", name, t.shape().str(),
          shape.str());
  require(t.dtype() == dtype, "[sparse_attention] {} is {}, expected {}", name, dtype_name(t.dtype()),
          dtype_name(dtype));
  require(t.device() == device, "[sparse_attention] {} is on {}, but q on {}", name, t.device().str(),
          device.str());
}

void check_inputs(const Tensor& q, const Tensor& k, const Tensor& v, const LayoutPtr& layout,
                  const AttentionOptions& options) {
  require(layout != nullptr, "[sparse_attention] no layout");
  require(q.rank() == 4, "[sparse_attention] q has shape {}, expected [B, N, H, D]", q.shape().str());
  require(k.rank() == 4, "[sparse_attention] k has shape {}, expected [B, M, G, D]", k.shape().str());
  require(q.dtype() == DType::f32 || q.dtype() == DType::f64,
          "[sparse_attention] q is {}, expected f32 or f64", dtype_name(q.dtype()));
  const std::int64_t B = q.dim(0), N = q.dim(1), M = k.dim(1), H = q.dim(2), G = k.dim(2), D = q.dim(3);
  require(D >= 1 && D <= kMaxHeadDim, "[sparse_attention] head dim {}, expected 1 to {}", D, kMaxHeadDim);
  require(G >= 1 && H % G == 0, "[sparse_attention] {} query heads for {} kv heads, expected a multiple", H,
          G);
  check_tensor(k, "k", {B, M, G, D}, q.dtype(), q.device());
  check_tensor(v, "v", {B, M, G, D}, q.dtype(), q.device());
  require(layout->n_queries() == N && layout->n_keys() == M && layout->n_heads() == H,
          "[sparse_attention] the layout is for {} queries, {} keys, {} heads, but q has {} queries and {} "
          "heads, k "
          "{} keys",
          layout->n_queries(), layout->n_keys(), layout->n_heads(), N, H, M);
  if (options.gate.defined()) {
    const Shape shared = {layout->gate_size()}, each = {B, layout->gate_size()};
    require(options.gate.shape() == shared || options.gate.shape() == each,
            "[sparse_attention] gate has shape {}, expected {} or {}", options.gate.shape().str(),
            shared.str(), each.str());
    check_tensor(options.gate.value(), "gate", options.gate.shape(), q.dtype(), q.device());
  }
  if (options.row_bounds.defined())
    check_tensor(options.row_bounds, "row_bounds", {B, N, 2}, DType::i32, q.device());
  if (options.alibi_slopes.defined())
    check_tensor(options.alibi_slopes, "alibi_slopes", {H}, q.dtype(), q.device());
}

// Room for k and v in the order of the device's kernel. It asks for as much on every device, so that meta
// counts it.
Tensor room_for_keys(const AttentionInput& in) {
  const std::int64_t padded_dim = (in.k.dim(3) + 15) / 16 * 16;
  return Tensor::empty({2, in.k.dim(0), in.k.dim(2), in.layout->key_tiles(), in.layout->tile(), padded_dim},
                       in.k.dtype(), in.k.device());
}

std::vector<Tensor> gradients(const AttentionInput& in, const Tensor& o, const Tensor& lse,
                              const Tensor& o_grad, bool want_gate) {
  Tensor q_grad = Tensor::zeros_like(in.q), k_grad = Tensor::zeros_like(in.k),
         v_grad = Tensor::zeros_like(in.v);
  const std::int64_t B = in.q.dim(0), S = in.layout->gate_size();
  Tensor gate_grad = want_gate ? Tensor::zeros({B, S}, in.q.dtype(), in.q.device()) : Tensor{};
  Tensor delta = Tensor::empty_like(lse);
  on_device(in.q.device(), [&](auto context) {
    sparse_attention_backward(context, in, o, lse, o_grad, delta, q_grad, k_grad, v_grad, gate_grad);
  });
  if (!want_gate) return {q_grad, k_grad, v_grad, {}};
  if (in.gate.rank() == 2) return {q_grad, k_grad, v_grad, gate_grad};
  Tensor shared = Tensor::empty_like(in.gate);
  on_device(in.q.device(), [&](auto context) { sum_leading(context, gate_grad, shared); });
  return {q_grad, k_grad, v_grad, shared};
}

}  // namespace

Var sparse_attention(const Var& q, const Var& k, const Var& v, const LayoutPtr& layout,
                     const AttentionOptions& options) {
  check_inputs(q.value(), k.value(), v.value(), layout, options);
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(q.dim(3)));
  const AttentionInput in{
      q.value(), k.value(), v.value(), layout, options.gate.value(), options.row_bounds, options.alibi_slopes,
      scale};
  Tensor o = Tensor::empty_like(in.q);
  Tensor lse = Tensor::empty({q.dim(0), q.dim(2), q.dim(1)}, q.dtype(), q.device());
  {
    Tensor packed = room_for_keys(in);
    on_device(q.device(), [&](auto context) { sparse_attention_forward(context, in, packed, o, lse); });
  }
  if (options.lse) *options.lse = lse;
  const Var gate = options.gate;
  return make_result("sparse_attention", o, {q, k, v, gate},
                     [in, o, lse, want_gate = gate.requires_grad()](const Tensor& o_grad) {
                       return gradients(in, o, lse, o_grad, want_gate);
                     });
}

Tensor alibi_slopes(int n_heads, DType dtype, Device device) {
  require(n_heads >= 1, "[alibi_slopes] {} heads", n_heads);
  // A power of two of heads: 2^(-8 (h + 1) / n). Otherwise the slopes of the power of two below, then every
  // second one of the power of two above (Press et al. 2022, reference implementation).
  int power = 1;
  while (2 * power <= n_heads) power *= 2;
  std::vector<double> slopes;
  for (int h = 0; h < power; ++h) slopes.push_back(std::exp2(-8.0 * (h + 1) / power));
  for (int h = 0; h < n_heads - power; ++h) slopes.push_back(std::exp2(-8.0 * (2 * h + 1) / (2 * power)));
  return Tensor::of({n_heads}, slopes).to(dtype).to(device);
}

}  // namespace filigree
