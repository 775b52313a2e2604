// Copies of rows of heads by Hopper's tensor memory accelerator: what the host says of a tensor.
#pragma once

#include <cuda.h>

#include "attention/kernels.h"

namespace filigree::cuda {

// bf16 heads, to be copied by 64 columns and `rows` rows of one sequence at a time, into panels as in
// wgmma.cuh; rows behind the sequence's last are zeros. Coordinates: element of the heads' row, row,
// sequence.
CUtensorMap tensor_map(const Heads& heads, int rows);

}  // namespace filigree::cuda
