// The attention room's raw kernels, declared once (kernels.inc) and given a body per device, as in
// core/kernels.h: attention/cpu/*.cpp in namespace cpu, attention/cuda/*.cu in namespace cuda.
#pragma once

#include <algorithm>
#include <span>

#include "attention/tile_layout.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree {

// Some of the heads of a tensor [B, N, all heads, D]: queries, keys or values, apart or in one tensor as the
// qkv projection leaves them. Element (b, n, h, d) is at tensor's element ((b N + n) all_heads + first + h) D
// + d.
struct Heads {
  Tensor tensor;
  std::int64_t first = 0;
  std::int64_t count = 0;

  static Heads all(const Tensor& t) { return {t, 0, t.dim(2)}; }
  std::int64_t batch() const { return tensor.dim(0); }
  std::int64_t rows() const { return tensor.dim(1); }
  std::int64_t dim() const { return tensor.dim(3); }
  std::int64_t row_stride() const { return tensor.dim(2) * tensor.dim(3); }  // elements from row n to n + 1
  template <class T>
  T* data() const {
    return static_cast<T*>(tensor.raw_data()) + first * tensor.dim(3);
  }
};

// The op's inputs, checked. Undefined tensors as in AttentionOptions; `scale` is final. gate and
// alibi_slopes are acc.
struct AttentionInput {
  Heads q, k, v;
  LayoutPtr layout;
  Tensor gate;
  Tensor row_bounds;
  Tensor alibi_slopes;
  double scale = 1;

  DType dtype() const { return q.tensor.dtype(); }
  // Sequences that share a layout: all, or 1 where each has its own. Head h of sequence b is head b *
  // layout_heads() + h of the layout.
  std::int64_t sharing() const { return layout->n_heads() == q.count ? q.batch() : 1; }
  std::int64_t layout_heads() const { return layout->n_heads() == q.count ? 0 : q.count; }
  // True if rows are all so long, and so many, that none need be cut for the launch to end soon. It does not
  // depend on the batch, so that a sequence has the same bits in each.
  bool has_long_rows() const {
    const std::int64_t rows = layout->query_tiles(), all = rows * layout->key_tiles();
    return k.count * rows >= 512 && std::ranges::all_of(layout->patterns(), [&](const TilePattern& p) {
             return 8 * p.tiles() >= all;
           });
  }
  // The kv heads that the layout's heads have.
  int layout_kv_heads() const { return static_cast<int>(layout->n_heads() / q.count * k.count); }
};

// Routers choose key tiles from this (attention/learned/block_topk.cpp).
// Candidates of row i of query tile q are the key tiles that are not q, not below `sinks`, wholly before q if
// causal, and touched by i's bounds.
struct TileChoice {
  Tensor shares;                       // f32 [G B, N, key tiles]: logarithms, see tile_shares
  Tensor row_bounds;                   // i32 [B, N, 2]; undefined: every key
  Tensor tried_rows;                   // i32 [G B, query tiles], see choose_tiles; undefined: none
  std::span<const double> thresholds;  // [G], of the host: of the logarithms
  std::int64_t tile = 64, topk = 1, sinks = 0;
  std::int64_t parts = 1;  // of a key tile, each with a score of its own
  bool causal = true;

  std::int64_t rows() const { return shares.dim(1); }
  std::int64_t key_tiles() const { return shares.dim(2); }
  std::int64_t query_tiles() const { return (rows() + tile - 1) / tile; }
  std::int64_t batch() const { return shares.dim(0) / std::ssize(thresholds); }
  std::int64_t candidates_end(std::int64_t q) const {  // of query tile q's rows, whatever their bounds
    return causal ? std::min(q, key_tiles()) : key_tiles();
  }
  std::int64_t places() const { return std::min(topk, tile); }  // a row takes one tile at most
};

// Over the rows of query tiles.
struct ChoiceSums {
  double wanted = 0;       // proposals above the threshold, whether or not there was a place
  double query_tiles = 0;  // with tiles to choose among

  ChoiceSums& operator+=(const ChoiceSums& o) {
    wanted += o.wanted;
    query_tiles += o.query_tiles;
    return *this;
  }
};
inline constexpr int kChoiceFields = sizeof(ChoiceSums) / sizeof(double);

}  // namespace filigree

namespace filigree::cpu {
#include "attention/kernels.inc"
}  // namespace filigree::cpu

namespace filigree::cuda {
#include "attention/kernels.inc"
}  // namespace filigree::cuda
