// The bodies behind attention/kernels.inc: bf16 on tensor cores, f32 and f64 with plain multiply-adds.
// forward.cu and backward.cu choose by dtype, and check what only CUDA refuses.
#pragma once

#include "attention/kernels.h"

namespace filigree::cuda {

// Whether bf16 attention takes the kernels with Hopper's products (*_sm90.cu): on such a card, head dims 64
// and 128, tiles of 64 and 128. FILIGREE_CUDA_KERNELS=portable in the environment, for tests and benchmarks:
// never.
bool takes_hopper_kernels(Context context, std::int64_t head_dim, int tile);

// bf16; head dims 32 to 128 in steps of 16.
void forward_bf16(Context context, const AttentionInput& in, Tensor& o, Tensor& lse);
void backward_bf16(Context context, const AttentionInput& in, const Tensor& o, const Tensor& lse,
                   const Tensor& o_grad, Tensor& delta, Heads& q_grad, Heads& k_grad, Heads& v_grad,
                   Tensor& gate_grad);

// f32 and f64; any head dim.
void forward_simt(Context context, const AttentionInput& in, Tensor& o, Tensor& lse);
void backward_simt(Context context, const AttentionInput& in, const Tensor& o, const Tensor& lse,
                   const Tensor& o_grad, Tensor& delta, Heads& q_grad, Heads& k_grad, Heads& v_grad,
                   Tensor& gate_grad);

}  // namespace filigree::cuda
