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

Var AttentionLayer::project(const Var& x) const {
  return ops::reshape(qkv_.forward(x), {x.dim(0), x.dim(1), n_heads_ + 2 * n_kv_heads_, head_dim_});
}

Var AttentionLayer::output(const Var& heads) const {
  return out_.forward(ops::reshape(heads, {heads.dim(0), heads.dim(1), n_heads_ * head_dim_}));
}

AttentionOptions AttentionLayer::options(const Var& qkv, const Var& gate, const Tensor& row_bounds) const {
  AttentionOptions options;
  options.row_bounds = row_bounds;
  options.gate = gate;
  if (positions_ == Positions::alibi) {
    const DType type = accumulation_dtype(qkv.dtype());
    if (!slopes_.defined() || slopes_.dtype() != type || slopes_.device() != qkv.device())
      slopes_ = alibi_slopes(static_cast<int>(n_heads_), type, qkv.device());
    options.alibi_slopes = slopes_;
  }
  return options;
}

Connected AttentionLayer::connect(const Var& qkv, const Connectivity& connectivity, const Tensor& row_bounds,
                                  bool training) const {
  const std::int64_t batch = qkv.dim(0), n = qkv.dim(1), H = n_heads_, G = n_kv_heads_, D = head_dim_;
  if (!connectivity.reads_text()) return connectivity.connect({n, training});
  const std::int64_t sizes[] = {H * D, G * D, G * D};
  const auto parts = ops::split_last(ops::reshape(qkv, {batch, n, (H + 2 * G) * D}), sizes);
  return connectivity.connect({n, training, ops::reshape(parts[0], {batch, n, H, D}),
                               ops::reshape(parts[1], {batch, n, G, D}), row_bounds});
}

Var AttentionLayer::forward(Var x, const Connectivity& connectivity, const Tensor& row_bounds,
                            bool training) const {
  x = project(x);
  const Connected connected = connect(x, connectivity, row_bounds, training);
  const AttentionOptions given = options(x, connected.gate, row_bounds);
  return output(sparse_attention_qkv(std::move(x), n_kv_heads_, connected.layout, theta(), given));
}

Var AttentionLayer::begin(Var x, std::int64_t s, std::int64_t rows, LayerCache& cache) const {
  x = project(x);
  cache.begin_reading(s, x.value(), rows);
  const Connected connected = connect(x, *cache.beginning, {}, false);
  AttentionOptions given = options(x, connected.gate, {});
  Tensor turned;
  given.turned_qkv = &turned;
  x = sparse_attention_qkv(std::move(x), n_kv_heads_, connected.layout, theta(), given);
  const std::int64_t H = n_heads_, G = n_kv_heads_;
  cache.kept.begin(s, Heads{turned, H, G}, Heads{turned, H + G, G}, rows);
  return output(x);
}

Var AttentionLayer::decode(Var x, std::span<const std::int64_t> texts, LayerCache& cache) const {
  x = project(x);
  const Tensor row_gates = cache.read_on(texts, x.value());
  const Var gate = row_gates.defined() ? Var{} : cache.growing.gate;
  return output(Var(cache.kept.attend(x.value(), texts, theta(), options(x, gate, {}), row_gates)));
}

// Values that say to which key tile they belong, D tiles at a time, make the output the mass.
Tensor AttentionLayer::mass(const Var& x, const Connectivity& connectivity, const Tensor& row_bounds) const {
  const NoGrad no_tape;
  const std::int64_t batch = x.dim(0), n = x.dim(1), H = n_heads_, G = n_kv_heads_, D = head_dim_;
  const Connected connected = connectivity.connect({n, false});
  const std::int64_t tile = connected.layout->tile(), side = connected.layout->key_tiles();
  const std::int64_t sizes[] = {(H + G) * D, G * D};
  const Var qk = ops::split_last(qkv_.forward(x), sizes)[0];
  Tensor mass = Tensor::zeros({H, connected.layout->query_tiles(), side}, DType::f64);
  for (std::int64_t first = 0; first < side; first += D) {
    Tensor values = Tensor::zeros({batch, n, G, D});
    for (std::int64_t row = 0; row < batch * n; ++row)
      if (const std::int64_t d = row % n / tile - first; d >= 0 && d < D)
        for (std::int64_t g = 0; g < G; ++g) values.data<float>()[(row * G + g) * D + d] = 1;
    const Var v(values.to(qk.dtype()).to(qk.device()).reshape({batch, n, G * D}));
    const Var parts[] = {qk, v};
    const Var o = sparse_attention_qkv(ops::reshape(ops::concat_last(parts), {batch, n, H + 2 * G, D}), G,
                                       connected.layout, theta(), options(qk, connected.gate, row_bounds));
    const Tensor weights = o.value().to(DType::f32).to(Device::cpu());
    for (std::int64_t row = 0; row < batch * n; ++row)
      for (std::int64_t h = 0; h < H; ++h)
        for (std::int64_t d = 0; d < std::min(D, side - first); ++d)
          mass.data<double>()[(h * mass.dim(1) + row % n / tile) * side + first + d] +=
              weights.data<float>()[(row * H + h) * D + d];
  }
  return mass;
}

void AttentionLayer::visit(const Visitor& visitor) {
  qkv_.visit(visitor);
  out_.visit(visitor);
}

}  // namespace filigree
