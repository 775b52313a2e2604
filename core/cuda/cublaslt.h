// Matrix products by cuBLASLt, without its headers.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/kernels.h"

namespace filigree::cuda {

// Row-major; the matrices of a batch follow one another.
struct Matrix {
  void* data;
  DType type;
  std::int64_t rows, columns;
};

// An epilogue is applied to a product in f32, before it is rounded to bf16. Batches have none.
enum class Epilogue : std::uint8_t {
  none,
  bias,           // y = op(a) op(b) + vector, which has y's columns and dtype
  gelu,           // before = op(a) op(b) + vector, if there is one; y = gelu(before), the tanh form
  gelu_gradient,  // y = (op(a) op(b)) gelu'(before)
};

// y = op(a) op(b) + beta y. No dimension is 0; a and b have one dtype, y has it too or f32 beside bf16.
struct Product {
  Matrix a, b, y;
  bool transpose_a = false, transpose_b = false;
  std::int64_t batch = 1;
  double beta = 0;
  Epilogue epilogue = Epilogue::none;
  void* vector = nullptr;
  void* before = nullptr;  // of y's shape and dtype, on 16 bytes and with a multiple of 8 columns
};

// False, and nothing is done, where cuBLASLt has no algorithm for the epilogue.
bool multiply(Context context, const Product& product);

}  // namespace filigree::cuda
