// Work of a model, for the share of the matrix rate and the table at the start of a run.
#pragma once

#include <cstdint>
#include <span>

#include "attention/tile_layout.h"
#include "layers/model_config.h"

namespace filigree {

// Parameters of matrix products: every matrix but embedding tables, and the token embedding where it is the
// output projection. A classifier's head, used once a sequence, is left out.
std::int64_t matmul_parameters(const ModelConfig& config);

// FLOPs that one token of a training step is worth, forward and backward, without recomputation:
// 6 * matmul parameters + sum over layers of 12 n_heads head_dim nnz / N, nnz the allowed pairs of a head
// (mean over heads). Document bounds are not taken off.
double model_flops_per_token(const ModelConfig& config, std::span<const LayoutPtr> layouts);

}  // namespace filigree
