#include "attention/cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include "core/cuda/cuda.h"

namespace filigree::cuda {
namespace {

// A function of the driver, which is not linked: machines without a GPU have none.
PFN_cuTensorMapEncodeTiled_v12000 find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                              &found));
  check(found == cudaDriverEntryPointSuccess, "CUDA: the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

}  // namespace

CUtensorMap tensor_map(const Heads& heads, int rows) {
  static const auto encode = find_encode();
  const auto row = static_cast<cuuint64_t>(heads.row_stride());
  const cuuint64_t columns = row - static_cast<cuuint64_t>(heads.first * heads.dim());
  const cuuint64_t sizes[] = {columns, static_cast<cuuint64_t>(heads.rows()),
                              static_cast<cuuint64_t>(heads.batch())};
  const cuuint64_t strides[] = {2 * row, 2 * row * sizes[1]};  // bytes, from the second dimension on
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(rows), 1}, element_strides[] = {1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, heads.data<bfloat16>(), sizes, strides, box,
             element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(status == CUDA_SUCCESS, "CUDA: heads that cuTensorMapEncodeTiled does not take");
  return map;
}

}  // namespace filigree::cuda
