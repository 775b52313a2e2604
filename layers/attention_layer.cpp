#include "layers/attention_layer.h"

#include <utility>

#include "core/ops.h"
#include "layers/initial.h"

namespace filigree {

AttentionLayer::AttentionLayer(const ParameterFactory& make, const std::string& name,
                               const ModelConfig& config)
    : n_heads_(config.n_heads),
      n_kv_heads_(config.n_kv_heads),
      head_dim_(config.head_dim),
      positions_(config.positions),
      rope_theta_(config.rope_theta),
      qkv_(make, name + ".qkv", config.dim, (n_heads_ + 2 * n_kv_heads_) * head_dim_, config.bias,
           kInitialDeviation),
      out_(make, name + ".out", n_heads_ * head_dim_, config.dim, config.bias, residual_deviation(config)) {}

AttentionOptions AttentionLayer::options(const AttentionMask& mask, DType compute, Device device) const {
  AttentionOptions options;
  options.row_bounds = mask.row_bounds;
  options.gate = mask.gate;
  options.turned_qkv = mask.turned_qkv;
  if (positions_ == Positions::alibi) {
    const DType type = accumulation_dtype(compute);
    if (!slopes_.defined() || slopes_.dtype() != type || slopes_.device() != device)
      slopes_ = alibi_slopes(static_cast<int>(n_heads_), type, device);
    options.alibi_slopes = slopes_;
  }
  return options;
}

Var AttentionLayer::forward(Var x, const AttentionMask& mask) const {
  const std::int64_t batch = x.dim(0), n = x.dim(1);
  const AttentionOptions given = options(mask, x.dtype(), x.device());
  x = qkv_.forward(x);
  x = ops::reshape(x, {batch, n, n_heads_ + 2 * n_kv_heads_, head_dim_});
  if (mask.plain_qkv) *mask.plain_qkv = x.value();
  if (mask.decode.cache)
    x = Var(decode(x.value(), mask, given));
  else if (mask.router)
    x = attend_each(x, mask, given);
  else
    x = sparse_attention_qkv(std::move(x), n_kv_heads_, mask.layout, theta(), given);
  return out_.forward(ops::reshape(x, {batch, n, n_heads_ * head_dim_}));
}

// New rows, which routers read first.
Tensor AttentionLayer::decode(const Tensor& qkv, const AttentionMask& mask,
                              const AttentionOptions& options) const {
  DecodeCache& cache = *mask.decode.cache;
  if (!mask.router) return cache.attend(qkv, mask.decode.sequences, theta(), options);
  const TileLayout& layout = cache.layout();
  Tensor gates = Tensor::empty({qkv.dim(0), n_heads_, layout.key_tiles()}, DType::f64);
  for (std::int64_t r = 0; r < qkv.dim(0); ++r) {
    auto& memory = (*mask.decode.memories)[mask.decode.sequences[r]];
    const Tensor row = qkv.slice(r, r + 1).reshape({1, qkv.dim(2), qkv.dim(3)});
    gates.slice(r, r + 1).copy_from(
        mask.router->read_rows(row, layout.n_queries(), memory).reshape({1, n_heads_, layout.key_tiles()}));
  }
  return cache.attend(qkv, mask.decode.sequences, theta(), options, gates.to(qkv.dtype()));
}

// Values that say to which key tile they belong, D tiles at a time, make the output the mass.
Tensor AttentionLayer::mass(const Var& x, const AttentionMask& mask) const {
  const NoGrad no_tape;
  const std::int64_t batch = x.dim(0), n = x.dim(1), H = n_heads_, G = n_kv_heads_, D = head_dim_;
  const std::int64_t tile = mask.layout->tile(), side = mask.layout->key_tiles();
  const std::int64_t sizes[] = {(H + G) * D, G * D};
  const Var qk = ops::split_last(qkv_.forward(x), sizes)[0];
  Tensor mass = Tensor::zeros({H, mask.layout->query_tiles(), side}, DType::f64);
  for (std::int64_t first = 0; first < side; first += D) {
    Tensor values = Tensor::zeros({batch, n, G, D});
    for (std::int64_t row = 0; row < batch * n; ++row)
      if (const std::int64_t d = row % n / tile - first; d >= 0 && d < D)
        for (std::int64_t g = 0; g < G; ++g) values.data<float>()[(row * G + g) * D + d] = 1;
    const Var v(values.to(qk.dtype()).to(qk.device()).reshape({batch, n, G * D}));
    const Var parts[] = {qk, v};
    const Var o = sparse_attention_qkv(ops::reshape(ops::concat_last(parts), {batch, n, H + 2 * G, D}), G,
                                       mask.layout, theta(), options(mask, qk.dtype(), qk.device()));
    const Tensor weights = o.value().to(DType::f32).to(Device::cpu());
    for (std::int64_t row = 0; row < batch * n; ++row)
      for (std::int64_t h = 0; h < H; ++h)
        for (std::int64_t d = 0; d < std::min(D, side - first); ++d)
          mass.data<double>()[(h * mass.dim(1) + row % n / tile) * side + first + d] +=
              weights.data<float>()[(row * H + h) * D + d];
  }
  return mass;
}

// Each sequence has a layout of its own.
Var AttentionLayer::attend_each(const Var& qkv, const AttentionMask& mask,
                                const AttentionOptions& options) const {
  const std::int64_t batch = qkv.dim(0), n = qkv.dim(1), H = n_heads_, G = n_kv_heads_, D = head_dim_;
  const std::int64_t sizes[] = {H * D, G * D, G * D};
  const auto parts = ops::split_last(ops::reshape(qkv, {batch, n, (H + 2 * G) * D}), sizes);
  const LearnedLayer::Connection connection =
      mask.router->connect_each(ops::reshape(parts[0], {batch, n, H, D}),
                                ops::reshape(parts[1], {batch, n, G, D}), mask.row_bounds, mask.training);
  AttentionOptions own = options;
  own.gate = connection.gate;
  return sparse_attention_qkv(qkv, G, connection.layout, theta(), own);
}

void AttentionLayer::visit(const Visitor& visitor) {
  qkv_.visit(visitor);
  out_.visit(visitor);
}

}  // namespace filigree
