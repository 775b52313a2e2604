// The attention room's raw kernels, declared once (kernels.inc) and given a body per device, as in
// core/kernels.h: attention/cpu/*.cpp in namespace cpu.
#pragma once

#include "attention/tile_layout.h"
#include "core/kernels.h"

namespace filigree {

// What the op was given, checked. Undefined tensors as in AttentionOptions; `scale` is final.
struct AttentionInput {
  Tensor q, k, v;
  LayoutPtr layout;
  Tensor gate;
  Tensor row_bounds;
  Tensor alibi_slopes;
  double scale = 1;
};

}  // namespace filigree

namespace filigree::cpu {
#include "attention/kernels.inc"
}  // namespace filigree::cpu
