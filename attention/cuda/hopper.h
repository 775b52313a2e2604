// The Hopper kernels (forward_sm90.cu, backward_sm90.cu), as forward_bf16.cu and backward_bf16.cu call them:
// bf16, D = 64 and 128, T = 64 and 128, where takes_hopper_kernels() says so.
#pragma once

#include <cuda_runtime.h>

#include "attention/device_layout.h"
#include "attention/kernels.h"
#include "core/cuda/cuda.h"

namespace filigree::cuda {

struct JointRange;

namespace hopper {

constexpr int kBlockRows = 64;  // queries of a step of backward

struct Results {
  bfloat16* o;
  float* lse;
  float *segment_o, *segment_lse;  // [slots, sharing, 128, D] and, in units of log 2, [slots, sharing, 128]
};
void forward(Context context, const AttentionInput& in, const DeviceLayout& layout, const Results& results);

struct Gradients {
  const float2* constants;   // [B, H, N rounded up to kBlockRows]: log2 of the row's sum, and delta
  const JointRange* ranges;  // [B, query tiles], beside row bounds
  float* gate_grad;          // [sharing, gate_size]; nullptr: not wanted
  std::int64_t gate_size;    // 0 where each sequence has its own layout
  float* segments;           // [slots, sharing, 2, 128, D]: dk and dv
};
void backward(Context context, const AttentionInput& in, const DeviceLayout& layout, const Tensor& o_grad,
              const Gradients& gradients, Heads& q_grad, Heads& k_grad, Heads& v_grad);

}  // namespace hopper
}  // namespace filigree::cuda
