// Dense masked attention from plain differentiable ops: what sparse_attention means, and the oracle of its
// tests. Its gradients come from the ops' own backwards, not from the formulas of the kernels. Memory and
// time are O(N M): for small sizes.
#pragma once

#include "attention/sparse_attention.h"

namespace filigree {

// Which pairs the layout allows: u8 [H, N, M], 1 = allowed.
Tensor allowed_pairs(const TileLayout& layout);

// As sparse_attention, but the pairs are those of `allowed` (u8 [layout.n_heads(), N, M]); the layout only
// says which tile's gate a pair has.
Var reference_attention(const Var& q, const Var& k, const Var& v, const Tensor& allowed,
                        const TileLayout& layout, const AttentionOptions& options = {});

}  // namespace filigree
