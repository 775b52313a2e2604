// What the tests that need a GPU share.
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "core/build_info.h"
#include "core/tensor.h"

namespace filigree {

// A fixture whose tests are skipped, saying why, where no GPU can be used.
template <class Base>
class OnCuda : public Base {
 protected:
  void SetUp() override {
    if (const std::string why = cuda_unavailable(); !why.empty()) GTEST_SKIP() << "no GPU: " << why;
  }
  const Device device = Device::cuda();
};
using CudaTest = OnCuda<testing::Test>;
template <class Parameter>
using CudaTestWith = OnCuda<testing::TestWithParam<Parameter>>;

// Fills the memory that the next tensors will get with NaN, so that an element that a kernel forgets to write
// shows. To be called while few tensors are there: only wholly free segments are given back first.
inline void poison_free_memory(Device device) {
  constexpr std::int64_t kSmall = std::int64_t{1} << 18, kLarge = std::int64_t{1} << 25;  // of two pools
  constexpr int kSmallBlocks = 32;
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  allocator(device).release_cached();
  // Two or four NaN in bf16 are one in f32 or f64.
  std::vector<Tensor> blocks{Tensor::full({kLarge}, kNaN, DType::bf16, device)};
  for (int i = 0; i < kSmallBlocks; ++i) blocks.push_back(Tensor::full({kSmall}, kNaN, DType::bf16, device));
}

}  // namespace filigree
