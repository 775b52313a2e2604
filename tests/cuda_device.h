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

// Fills the memory that the next tensors will get with NaN (in f32, f64 and bf16 alike), so that an element
// that a kernel forgets to write shows. To be called while the test holds few tensors there.
inline void poison_free_memory(Device device) {
  constexpr std::int64_t kSmall = std::int64_t{1} << 19, kLarge = std::int64_t{1} << 26;  // two pools: bytes
  constexpr int kSmallBlocks = 32;
  constexpr double kAllBits = std::numeric_limits<std::uint8_t>::max();
  // Never freed: CUDA may be gone before a static tensor is.
  static const auto* const pattern = new Tensor(Tensor::full({kLarge}, kAllBits, DType::u8, device));
  allocator(device).release_cached();
  std::vector<Tensor> blocks;
  for (int i = 0; i < kSmallBlocks; ++i) blocks.push_back(Tensor::empty({kSmall}, DType::u8, device));
  blocks.push_back(Tensor::empty({kLarge}, DType::u8, device));
  for (Tensor& block : blocks) block.copy_from(pattern->slice(0, block.numel()));
}

}  // namespace filigree
