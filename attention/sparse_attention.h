// Attention over a TileLayout: the one op that every pattern, fixed or learned, runs through.
//
//   S = scale * q k^T (+ alibi);  P = m e^S / sum_allowed(m e^S);  o = P v;  lse = log sum_allowed(m e^S)
//
// Only the layout's tiles are computed, forward and backward. Forward keeps o and lse, backward recomputes S
// (Dao et al. 2022). A query row that allows no key gives o = 0, lse = -inf and zero gradients.
#pragma once

#include "attention/tile_layout.h"
#include "core/autograd.h"

namespace filigree {

inline constexpr std::int64_t kMaxHeadDim = 256;

struct AttentionOptions {
  // One weight m >= 0 per computed tile, of q's dtype or f32 beside bf16: [layout.gate_size()] or [B,
  // layout.gate_size()] (see TileLayout::gate_offset). Undefined: 1. Its gradient is defined at m = 0 too: dm
  // = sum over the tile's pairs of e^(S - lse) (dP - Delta), where e^(S - lse) is cut at 2^100 in f32 and
  // 2^900 in f64: at m = 0 nothing else bounds it. Rows whose tiles all have m = 0 count as rows without keys
  // and add nothing to dm.
  Var gate;
  // i32 [B, N, 2]: row n sees keys in [lo, hi) only (documents, padding). Undefined: all.
  Tensor row_bounds;
  double scale = 0;  // 0: 1 / sqrt(D)
  // [H], of the gate's dtype: adds -slope_h * abs(i - j) to S (Press et al. 2022). Undefined: none.
  Tensor alibi_slopes;
  // Receives lse [B, H, N], of the gate's dtype, if given.
  Tensor* lse = nullptr;
  // Receives q, k and v as sparse_attention_qkv attends with them, turned by their positions, if given.
  Tensor* turned_qkv = nullptr;
};

// q [B, N, H, D]; k, v [B, M, G, D], H a multiple of G: query head h reads kv head h / (H / G). f32 or f64,
// on CUDA also bf16 with D a multiple of 16 from 32 to 128; CUDA computes tiles of edge 32, 64 and 128.
// Returns o [B, N, H, D].
//
// A layout of B H heads, not H, is one layout for each sequence: head b H + h is head h of sequence b. Then
// the gate is [layout.gate_size()], of all sequences.
Var sparse_attention(const Var& q, const Var& k, const Var& v, const LayoutPtr& layout,
                     const AttentionOptions& options = {});

// The same for q, k and v in one tensor [B, N, H + 2 G, D], as a qkv projection leaves them (heads of q, then
// of k, then of v), rotated by their positions first if rope_theta is not 0 (the kernel rope). To be moved
// in: what nobody else holds is turned in place, and gradients come back in one tensor, so nothing is split
// or copied.
Var sparse_attention_qkv(Var qkv, std::int64_t n_kv_heads, const LayoutPtr& layout, double rope_theta = 0,
                         const AttentionOptions& options = {});

// Slopes of Press et al. 2022 for any number of heads: [H] in `dtype`.
Tensor alibi_slopes(int n_heads, DType dtype, Device device);

}  // namespace filigree
