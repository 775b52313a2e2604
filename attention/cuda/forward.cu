// Refuses what the CUDA kernels do not compute, and chooses the forward kernel by dtype.
#include <cstdlib>
#include <string_view>

#include "attention/cuda/attention.h"
#include "core/cuda/cuda.h"

namespace filigree::cuda {
namespace {

constexpr int kLeastTile = 32;
constexpr std::int64_t kLeastHeadDim = 32, kGreatestHeadDim = 128, kHeadDimStep = 16;  // bf16

void check_supported(const AttentionInput& in) {
  if (in.layout->tile() < kLeastTile)
    throw Error(
        ErrorKind::usage,
        fmt::format("[sparse_attention] the layout has tiles of {}, but device: cuda computes tiles of "
                    "32, 64 or 128",
                    in.layout->tile()),
        "set tile: 32, 64 or 128");
  if (in.dtype() != DType::bf16) return;
  const std::int64_t D = in.q.dim();
  if (D < kLeastHeadDim || D > kGreatestHeadDim || D % kHeadDimStep != 0)
    throw Error(ErrorKind::usage,
                fmt::format("[sparse_attention] head dim {} in bf16, but device: cuda computes 32 to 128 in "
                            "steps of 16",
                            D),
                "choose another head dim, or compute in f32 (precision: fp32)");
}

}  // namespace

bool takes_hopper_kernels(Context context, std::int64_t head_dim, int tile) {
  const char* const kernels = std::getenv("FILIGREE_CUDA_KERNELS");
  if (kernels && std::string_view(kernels) == "portable") return false;
  return is_hopper(context) && (head_dim == 64 || head_dim == 128) && (tile == 64 || tile == 128);
}

void sparse_attention_forward(Context context, const AttentionInput& in, Tensor& /*packed*/, Tensor& o,
                              Tensor& lse) {
  check_supported(in);
  if (in.dtype() == DType::bf16)
    forward_bf16(context, in, o, lse);
  else
    forward_simt(context, in, o, lse);
}

}  // namespace filigree::cuda
