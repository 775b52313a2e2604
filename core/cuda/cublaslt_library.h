// cuBLASLt, loaded when a GPU multiplies for the first time: it takes more than 200 MB of a process, and most
// commands need none of it.
#pragma once

#include <cublasLt.h>

namespace filigree::cuda {

// The functions of the library that core/cuda/cublaslt.cu calls.
struct CublasLt {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtGetStatusName) status_name;
  decltype(&cublasLtGetStatusString) status_text;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) algorithm_attribute;
  decltype(&cublasLtMatmulAlgoGetHeuristic) propose;
  decltype(&cublasLtMatmulDescInit_internal) init_operation;
  decltype(&cublasLtMatmulDescSetAttribute) set_operation;
  decltype(&cublasLtMatmulPreferenceInit_internal) init_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;
  decltype(&cublasLtMatrixLayoutInit_internal) init_layout;
  decltype(&cublasLtMatrixLayoutSetAttribute) set_layout;
};

// Error(usage), saying where it was sought, if the library cannot be loaded.
const CublasLt& cublas_lt();

}  // namespace filigree::cuda
