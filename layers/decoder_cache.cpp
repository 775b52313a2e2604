#include "layers/decoder_cache.h"

#include "layers/transformer.h"

namespace filigree {
namespace {

Connected growing_of(const Connectivity& connectivity, std::int64_t n) {
  const NoGrad no_tape;
  return connectivity.growing(n);
}

}  // namespace

LayerCache::LayerCache(ConnectivityPtr of, std::int64_t capacity, std::int64_t n_texts,
                       std::int64_t n_kv_heads, std::int64_t head_dim, DType dtype)
    : connectivity(std::move(of)),
      beginning(as_beginning(connectivity, capacity)),
      growing(growing_of(*connectivity, capacity)),
      kept(growing.layout, n_texts, n_kv_heads, head_dim, dtype),
      readers(n_texts) {}

void LayerCache::begin_reading(std::int64_t s, const Tensor& qkv, std::int64_t rows) {
  readers[s] = connectivity->reader(kept.layout().n_queries());
  if (!readers[s]) return;
  const Tensor values = qkv.to(DType::f64);
  const std::int64_t D = qkv.dim(3), T = kept.layout().tile();
  for (std::int64_t r = 0; r < rows; ++r) {
    const double* row = values.data<double>() + r * qkv.dim(2) * D;
    readers[s]->read(row, row + kept.layout().n_heads() * D, r / T == (rows - 1) / T);
  }
}

Tensor LayerCache::read_on(std::span<const std::int64_t> texts, const Tensor& qkv) {
  if (!connectivity->reads_text()) return {};
  const TileLayout& layout = kept.layout();
  const Tensor values = qkv.to(DType::f64);
  Tensor gates = Tensor::zeros({qkv.dim(0), layout.n_heads(), layout.key_tiles()}, DType::f64);
  for (std::int64_t r = 0; r < qkv.dim(0); ++r) {
    TextReader& reader = *readers[texts[r]];
    const double* row = values.data<double>() + r * qkv.dim(2) * qkv.dim(3);
    reader.read(row, row + layout.n_heads() * qkv.dim(3), true);
    reader.gates(gates.data<double>() + r * gates.dim(1) * gates.dim(2));
  }
  return gates.to(qkv.dtype());
}

DecoderCache::DecoderCache(const Transformer& model, std::int64_t capacity, std::int64_t n_texts)
    : capacity_(capacity) {
  const ModelConfig& config = model.config();
  require(config.type == ModelType::decoder, "[decode] only a decoder makes text");
  require(config.positions != Positions::learned || capacity <= config.max_seq_len,
          "[decode] {} tokens are more than max_seq_len {}; learned positions end there", capacity,
          config.max_seq_len);
  for (const ConnectivityPtr& connectivity : model.connectivities())
    layers_.emplace_back(connectivity, capacity, n_texts, config.n_kv_heads, config.head_dim,
                         model.compute_type());
}

std::int64_t DecoderCache::bytes() const {
  std::int64_t total = 0;
  for (const LayerCache& layer : layers_) total += layer.kept.bytes();
  return total;
}

}  // namespace filigree
