// Tensors of one value.
#include <cstring>

#include "core/cuda/cuda.h"

namespace filigree::cuda {
namespace {

// Word: an unsigned integer of the element's size.
template <class Word>
__global__ void fill_words(Word word, std::int64_t n, Word* y) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride)
    y[i] = word;
}

template <class Word>
void launch(Context context, const Tensor& element, Tensor& y) {
  constexpr int kThreads = 256;
  constexpr std::int64_t kBlocks = 4096;
  Word word;
  std::memcpy(&word, element.raw_data(), sizeof word);
  const auto blocks = static_cast<unsigned>(std::min(kBlocks, divide_up(y.numel(), kThreads)));
  fill_words<<<blocks, kThreads, 0, stream(context)>>>(word, y.numel(), static_cast<Word*>(y.raw_data()));
  check_launch();
}

}  // namespace

void fill(Context context, double value, Tensor& y) {
  if (y.numel() == 0) return;
  const Tensor element = Tensor::full({1}, value, y.dtype());  // on the CPU
  switch (dtype_size(y.dtype())) {
    case 1:
      return launch<std::uint8_t>(context, element, y);
    case 2:
      return launch<std::uint16_t>(context, element, y);
    case 4:
      return launch<std::uint32_t>(context, element, y);
    default:
      return launch<std::uint64_t>(context, element, y);
  }
}

}  // namespace filigree::cuda
