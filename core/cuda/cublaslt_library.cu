#include <dlfcn.h>

#include <string>

#include "core/check.h"
#include "core/cuda/cublaslt_library.h"

namespace filigree::cuda {
namespace {

// The folder of the toolkit that this was built with comes first, then what the dynamic loader finds.
void* open_library() {
  const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
  const std::string built_with = fmt::format("{}/{}", FILIGREE_CUBLASLT_FOLDER, name);
  for (const std::string& path : {built_with, name})
    if (void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL)) return library;
  const char* why = dlerror();
  throw Error(
      ErrorKind::usage,
      fmt::format("device: cuda needs {}, which is neither in {} nor where the dynamic loader looks ({})",
                  name, FILIGREE_CUBLASLT_FOLDER, why ? why : "no reason given"),
      fmt::format("install cuBLAS of CUDA {}, name its folder in LD_LIBRARY_PATH, or use device: cpu",
                  CUBLAS_VER_MAJOR));
}

template <class Function>
void find(void* library, const char* name, Function*& to) {
  to = reinterpret_cast<Function*>(dlsym(library, name));
  check(to != nullptr, fmt::format("libcublasLt.so.{} has no {}", CUBLAS_VER_MAJOR, name));
}

CublasLt load() {
  void* const library = open_library();
  CublasLt all{};
  find(library, "cublasLtCreate", all.create);
  find(library, "cublasLtGetStatusName", all.status_name);
  find(library, "cublasLtGetStatusString", all.status_text);
  find(library, "cublasLtMatmul", all.matmul);
  find(library, "cublasLtMatmulAlgoConfigGetAttribute", all.algorithm_attribute);
  find(library, "cublasLtMatmulAlgoGetHeuristic", all.propose);
  find(library, "cublasLtMatmulDescInit_internal", all.init_operation);
  find(library, "cublasLtMatmulDescSetAttribute", all.set_operation);
  find(library, "cublasLtMatmulPreferenceInit_internal", all.init_preference);
  find(library, "cublasLtMatmulPreferenceSetAttribute", all.set_preference);
  find(library, "cublasLtMatrixLayoutInit_internal", all.init_layout);
  find(library, "cublasLtMatrixLayoutSetAttribute", all.set_layout);
  return all;
}

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt all = load();
  return all;
}

}  // namespace filigree::cuda
