// Chooses the backward kernel by dtype.
#include "attention/cuda/attention.h"

namespace filigree::cuda {

void sparse_attention_backward(Context context, const AttentionInput& in, const Tensor& o, const Tensor& lse,
                               const Tensor& o_grad, Tensor& delta, Heads& q_grad, Heads& k_grad,
                               Heads& v_grad, Tensor& gate_grad) {
  const auto backward = in.dtype() == DType::bf16 ? backward_bf16 : backward_simt;
  backward(context, in, o, lse, o_grad, delta, q_grad, k_grad, v_grad, gate_grad);
}

}  // namespace filigree::cuda
