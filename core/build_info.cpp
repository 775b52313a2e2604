#include "core/build_info.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "core/backend.h"
#include "core/cpu/gemm.h"
#include "core/cuda_built.h"
#include "core/hdf5_library.h"
#include "core/ops.h"
#include "core/random.h"
#include "core/stream.h"

namespace filigree {
namespace {

std::string hdf5_version() {
  const h5::Lock lock;
  unsigned major = 0, minor = 0, release = 0;
  check(H5get_libversion(&major, &minor, &release) >= 0, "libhdf5 does not tell its version");
  return fmt::format("{}.{}.{}", major, minor, release);
}

}  // namespace

std::string version() {
  return FILIGREE_VERSION;
}

std::vector<std::pair<std::string, std::string>> library_versions() {
  std::vector<std::pair<std::string, std::string>> versions = {
      {"oneDNN", cpu::onednn_version()},
      {"HDF5", hdf5_version()},
      {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)}};
  if constexpr (kCudaBuilt) versions.emplace_back("CUDA", cuda::runtime_versions());
  return versions;
}

double measure_matrix_rate(Device device, DType dtype) {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  constexpr int kLeastRepeats = 3;
  constexpr Seconds kTimeOfASize(0.08);
  const NoGrad no_tape;
  RandomStream random(1);
  double best = 0;
  // A GPU fills only with large products. A CPU's caches are used best by some size, which one is not known.
  const std::vector<std::int64_t> cpu_sizes{768, 1536}, gpu_sizes{dtype == DType::bf16 ? 8192 : 4096};
  for (const std::int64_t n : device.is_cuda() ? gpu_sizes : cpu_sizes) {
    // Not constants, on which a GPU runs faster than on real data.
    std::vector<float> draws(16 * n);
    for (float& x : draws) x = static_cast<float>(random.uniform()) - 0.5f;
    const Var few(Tensor::of({n, 16}, draws).to(device).to(dtype));
    const Var a = ops::matmul(few, few, false, true), b = a;
    ops::matmul(a, b);  // loads code, chooses an algorithm
    synchronize(device);
    const auto begin = Clock::now();
    for (int i = 0; i < kLeastRepeats || Clock::now() - begin < kTimeOfASize; ++i) {
      const auto before = Clock::now();
      ops::matmul(a, b);
      synchronize(device);
      best = std::max(best, 2.0 * static_cast<double>(n * n * n) / Seconds(Clock::now() - before).count());
    }
  }
  return best;
}

std::string device_name(Device device) {
  return backend(device).description();
}

std::string host_name() {
  char name[256] = "";
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::string cuda_unavailable() {
  if constexpr (kCudaBuilt) return cuda::why_unavailable();
  return "this filigree was built without CUDA (nvcc was not found)";
}

}  // namespace filigree
