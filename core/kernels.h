// Every raw kernel, declared once (kernels.inc) and given a body per device: core/cpu/*.cpp in namespace cpu,
// core/cuda/*.cu in namespace cuda. A kernel without a body on a device that is built in is a link error.
//
// A kernel's first argument is its device's Context, so a call inside on_device() finds the right body:
//   on_device(x.device(), [&](auto context) { softmax_forward(context, x, y); });
// Kernels trust their callers: ops check shapes and dtypes. Outputs are allocated by the caller. CUDA kernels
// are enqueued on the device's stream and do not wait, unless they return something to the host.
#pragma once

#include <cstdint>
#include <span>

#include "core/backend.h"
#include "core/cuda_built.h"
#include "core/elementwise.h"
#include "core/optimizers/rules.h"
#include "core/random.h"

namespace filigree {
class Tensor;
struct OptimizerTensors;  // core/optimizers/step.h
struct StepControl;
}  // namespace filigree

namespace filigree::cpu {
struct Context {};
#include "core/kernels.inc"
}  // namespace filigree::cpu

namespace filigree::cuda {
struct Context {
  int device = 0;
};
#include "core/kernels.inc"
}  // namespace filigree::cuda

namespace filigree {

// Calls f with the device's context; does nothing on meta, where tensors have no data.
template <class F>
void on_device(Device device, F&& f) {
  switch (device.type) {
    case Device::Type::meta:
      return;
    case Device::Type::cpu:
      return f(cpu::Context{});
    case Device::Type::cuda:
      if constexpr (kCudaBuilt) return f(cuda::Context{device.index});
  }
  fail_without_cuda();
}

}  // namespace filigree
