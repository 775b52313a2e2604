#include <dnnl.h>
#include <fmt/format.h>

#include "core/cpu/gemm.h"

namespace filigree::cpu {

std::string onednn_version() {
  const dnnl_version_t* v = dnnl_version();
  return fmt::format("{}.{}.{}", v->major, v->minor, v->patch);
}

}  // namespace filigree::cpu
