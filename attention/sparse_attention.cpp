#include "attention/sparse_attention.h"

#include <cmath>

#include "attention/device_layout.h"
#include "attention/kernels.h"
#include "core/ops_common.h"

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

void check_inputs(const Heads& q, const Heads& k, const LayoutPtr& layout, const AttentionOptions& options) {
  require(layout != nullptr, "[sparse_attention] no layout");
  ops::require_computing("sparse_attention", q.tensor);
  const std::int64_t B = q.batch(), N = q.rows(), M = k.rows(), H = q.count, G = k.count, D = q.dim();
  require(D >= 1 && D <= kMaxHeadDim, "[sparse_attention] head dim {}, expected 1 to {}", D, kMaxHeadDim);
  require(G >= 1 && H % G == 0, "[sparse_attention] {} query heads for {} kv heads, expected a multiple", H,
          G);
  const bool shared = layout->n_heads() == H;
  require(layout->n_queries() == N && layout->n_keys() == M && (shared || layout->n_heads() == B * H),
          "[sparse_attention] the layout is for {} queries, {} keys, {} heads, but q has {} sequences of {} "
          "queries and {} heads, k {} keys",
          layout->n_queries(), layout->n_keys(), layout->n_heads(), B, N, H, M);
  const DType sums = accumulation_dtype(q.tensor.dtype());
  const Device device = q.tensor.device();
  if (options.gate.defined()) {
    const Shape one = {layout->gate_size()}, each = {B, layout->gate_size()};
    require(options.gate.shape() == one || (shared && options.gate.shape() == each),
            "[sparse_attention] gate has shape {}, expected {}", options.gate.shape().str(),
            shared ? one.str() + " or " + each.str() : one.str());
    check_tensor(options.gate.value(), "gate", options.gate.shape(), sums, device);
  }
  if (options.row_bounds.defined())
    check_tensor(options.row_bounds, "row_bounds", {B, N, 2}, DType::i32, device);
  if (options.alibi_slopes.defined()) check_tensor(options.alibi_slopes, "alibi_slopes", {H}, sums, device);
}

AttentionInput checked_input(const Heads& q, const Heads& k, const Heads& v, const LayoutPtr& layout,
                             const AttentionOptions& options) {
  check_inputs(q, k, layout, options);
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(q.dim()));
  return {q, k, v, layout, options.gate.value(), options.row_bounds, options.alibi_slopes, scale};
}

// Room for k and v in the order of the CPU's kernel; its meta device counts it too.
Tensor room_for_keys(const AttentionInput& in) {
  if (in.k.tensor.device().like_cuda()) return {};
  const std::int64_t padded_dim = (in.k.dim() + 15) / 16 * 16;
  return Tensor::empty({2, in.k.batch(), in.k.count, in.layout->key_tiles(), in.layout->tile(), padded_dim},
                       in.dtype(), in.k.tensor.device());
}

// The memory that the CUDA kernels take beside their results, for the meta device in a GPU's place: the
// layout there, and workspaces of the sizes in attention/cuda/*.cu.
class CountedWorkspaces {
 public:
  explicit CountedWorkspaces(const AttentionInput& in) : in_(in), device_(in.q.tensor.device()) {
    if (device_ == Device::meta_cuda()) layout_ = &in.layout->on(device_, in.layout_kv_heads());
  }
  void forward() const {
    if (!layout_) return;
    const std::int64_t D = in_.q.dim(), tile = in_.layout->tile();
    std::int64_t rows = segment_rows(layout_->query_work);
    if (is_bf16() && (D == 64 || D == 128) && (tile == 64 || tile == 128)) {  // as on Hopper
      const QueryVisits& visits = in_.layout->visits(device_, visit_blocks(D));
      rows = visits.work.n_slots * in_.sharing() * visit_blocks(D) * kVisitBlock;
    }
    const Tensor o = take(rows * in_.q.dim()), sums = take(rows), maxima = is_bf16() ? Tensor{} : take(rows);
  }
  void backward(const Tensor& gate_grad) const {
    if (!layout_) return;
    if (!is_bf16()) {
      query_gradients(gate_grad.defined() ? gate_grad.numel() : 0);
      return key_gradients();
    }
    constexpr std::int64_t kBoundsWords = 4;
    const std::int64_t query_tiles = in_.q.batch() * in_.layout->query_tiles(), D = in_.q.dim();
    const bool on_ring = (D == 64 || D == 128) && in_.layout->tile() == 128;  // as on Hopper
    const std::int64_t constants = in_.q.count * (on_ring ? query_tiles * 128 : in_.q.batch() * in_.q.rows());
    const bool padded = constants != in_.q.count * in_.q.batch() * in_.q.rows();
    const Tensor sums = take(constants), tickets = take(2), deltas = padded ? take(constants) : Tensor{},
                 parts = take(2 * layout_->masks.dim(0)),
                 bounds = in_.row_bounds.defined() ? take(kBoundsWords * query_tiles) : Tensor{};
    if (on_ring && in_.has_long_rows()) return;
    key_gradients();
    query_gradients(0);
  }

 private:
  bool is_bf16() const { return in_.dtype() == DType::bf16; }
  Tensor take(std::int64_t elements) const {
    return Tensor::empty({elements}, accumulation_dtype(in_.dtype()), device_);
  }
  std::int64_t segment_rows(const WorkList& work) const {
    return work.n_slots * in_.sharing() * in_.layout->tile();
  }
  void key_gradients() const {
    const Tensor segments = take(2 * segment_rows(layout_->key_work) * in_.q.dim());
  }
  void query_gradients(std::int64_t gates) const {
    const std::int64_t parts = in_.layout->tile() / 32;
    const Tensor segments = take(segment_rows(layout_->query_work) * in_.q.dim()),
                 of_gates = take(gates * parts * parts);
  }

  const AttentionInput& in_;
  Device device_;
  const DeviceLayout* layout_ = nullptr;  // on a GPU the kernels count for themselves
};

struct Output {
  Tensor o, lse;
};

Output forward(const AttentionInput& in, const AttentionOptions& options) {
  const Device device = in.q.tensor.device();
  Output out{Tensor::empty({in.q.batch(), in.q.rows(), in.q.count, in.q.dim()}, in.dtype(), device),
             Tensor::empty({in.q.batch(), in.q.count, in.q.rows()}, accumulation_dtype(in.dtype()), device)};
  Tensor packed = room_for_keys(in);
  CountedWorkspaces(in).forward();
  on_device(device, [&](auto context) { sparse_attention_forward(context, in, packed, out.o, out.lse); });
  if (options.lse) *options.lse = out.lse;
  return out;
}

// Fills the gradients of q, k and v; returns that of the gate, undefined if it is not wanted.
Tensor backward(const AttentionInput& in, const Output& out, const Tensor& o_grad, bool want_gate,
                Heads& q_grad, Heads& k_grad, Heads& v_grad) {
  const Device device = in.q.tensor.device();
  Tensor gate_grad;
  if (want_gate) gate_grad = Tensor::empty({in.sharing(), in.layout->gate_size()}, in.gate.dtype(), device);
  Tensor delta = Tensor::empty_like(out.lse);
  CountedWorkspaces(in).backward(gate_grad);
  on_device(device, [&](auto context) {
    sparse_attention_backward(context, in, out.o, out.lse, o_grad, delta, q_grad, k_grad, v_grad, gate_grad);
  });
  if (!want_gate || in.gate.rank() == 2) return gate_grad;
  if (in.sharing() == 1) return gate_grad.reshape(in.gate.shape());
  Tensor shared = Tensor::empty_like(in.gate);
  on_device(device, [&](auto context) { sum_leading(context, gate_grad, shared); });
  return shared;
}

}  // namespace

Var sparse_attention(const Var& q, const Var& k, const Var& v, const LayoutPtr& layout,
                     const AttentionOptions& options) {
  ops::require_computing("sparse_attention", q.value());
  require(q.rank() == 4, "[sparse_attention] q has shape {}, expected [B, N, H, D]", q.shape().str());
  require(k.rank() == 4, "[sparse_attention] k has shape {}, expected [B, M, G, D]", k.shape().str());
  const Shape keys = {q.dim(0), k.dim(1), k.dim(2), q.dim(3)};
  check_tensor(k.value(), "k", keys, q.dtype(), q.device());
  check_tensor(v.value(), "v", keys, q.dtype(), q.device());
  const AttentionInput in =
      checked_input(Heads::all(q.value()), Heads::all(k.value()), Heads::all(v.value()), layout, options);
  const Output out = forward(in, options);
  const Var gate = options.gate;
  return make_result("sparse_attention", out.o, {q, k, v, gate},
                     [in, out, want_gate = gate.requires_grad()](const Tensor& o_grad) {
                       Heads q_grad = Heads::all(Tensor::empty_like(in.q.tensor));
                       Heads k_grad = Heads::all(Tensor::empty_like(in.k.tensor));
                       Heads v_grad = Heads::all(Tensor::empty_like(in.v.tensor));
                       const Tensor gate_grad = backward(in, out, o_grad, want_gate, q_grad, k_grad, v_grad);
                       return std::vector<Tensor>{q_grad.tensor, k_grad.tensor, v_grad.tensor, gate_grad};
                     });
}

Var sparse_attention_qkv(Var qkv, std::int64_t n_kv_heads, const LayoutPtr& layout, double rope_theta,
                         const AttentionOptions& options) {
  require(qkv.rank() == 4 && n_kv_heads >= 1 && qkv.dim(2) > 2 * n_kv_heads,
          "[sparse_attention] qkv has shape {}, expected [B, N, H + 2 * {}, D]", qkv.shape().str(),
          n_kv_heads);
  require(rope_theta == 0 || qkv.dim(3) % 2 == 0, "[sparse_attention] rope of an odd head dim {}",
          qkv.dim(3));
  const std::int64_t n_heads = qkv.dim(2) - 2 * n_kv_heads;
  Tensor turned = std::move(qkv.value());
  qkv.value() = {};
  if (rope_theta != 0) {
    if (!turned.unique()) turned = turned.clone();
    on_device(turned.device(), [&](auto context) {
      rope(context, turned, n_heads + n_kv_heads, rope_theta, 0, false, turned);
    });
  }
  if (options.turned_qkv) *options.turned_qkv = turned;
  const auto part = [=](const Tensor& t, std::int64_t first, std::int64_t count) {
    return Heads{t, first, count};
  };
  const AttentionInput in = checked_input(part(turned, 0, n_heads), part(turned, n_heads, n_kv_heads),
                                          part(turned, n_heads + n_kv_heads, n_kv_heads), layout, options);
  const Output out = forward(in, options);
  const Var gate = options.gate;
  return make_result("sparse_attention", out.o, {qkv, gate},
                     [in, out, want_gate = gate.requires_grad(), rope_theta](const Tensor& o_grad) {
                       Tensor grad = Tensor::empty_like(in.q.tensor);
                       Heads q_grad{grad, in.q.first, in.q.count}, k_grad{grad, in.k.first, in.k.count};
                       Heads v_grad{grad, in.v.first, in.v.count};
                       const Tensor gate_grad = backward(in, out, o_grad, want_gate, q_grad, k_grad, v_grad);
                       if (rope_theta != 0)
                         on_device(grad.device(), [&](auto context) {
                           rope(context, grad, in.q.count + in.k.count, rope_theta, 0, true, grad);
                         });
                       return std::vector<Tensor>{grad, gate_grad};
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
