#include "core/build_info.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>

#include "core/cpu/gemm.h"
#include "core/hdf5_library.h"
#include "core/ops.h"
#include "core/random.h"
#include "core/stream.h"

#ifdef FILIGREE_CUDA
#include "core/cuda/runtime.h"
#endif

namespace filigree {
namespace {

// The value of "Name:   123 kB" in a /proc file, in bytes; 0 if absent.
std::int64_t proc_field(const char* file, const std::string& name) {
  std::ifstream in(file);
  for (std::string word; in >> word;) {
    std::int64_t kib = 0;
    if (word == name && in >> kib) return kib * 1024;
  }
  return 0;
}

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
#ifdef FILIGREE_CUDA
  versions.emplace_back("CUDA", cuda::runtime_versions());
#endif
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
  if (device.is_cuda()) return cuda_description();
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(':') + 2));
  return "unknown cpu";
}

std::string host_name() {
  char name[256] = "";
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::string cuda_unavailable() {
#ifdef FILIGREE_CUDA
  return cuda::why_unavailable();
#else
  return "this filigree was built without CUDA (nvcc was not found)";
#endif
}

std::string cuda_description() {
#ifdef FILIGREE_CUDA
  const cuda::DeviceInfo info = cuda::device_info(0);
  return fmt::format("{}, compute capability {}.{}, {:.1f} GiB", info.name, info.major, info.minor,
                     static_cast<double>(info.memory) / (1 << 30));
#else
  fail_without_cuda();
#endif
}

std::int64_t free_cuda_bytes() {
#ifdef FILIGREE_CUDA
  return cuda::device_info(0).free_memory;
#else
  fail_without_cuda();
#endif
}

std::int64_t resident_bytes() {
  return proc_field("/proc/self/status", "VmRSS:");
}
std::int64_t peak_resident_bytes() {
  return proc_field("/proc/self/status", "VmHWM:");
}
void reset_peak_resident_bytes() {
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << 5;  // proc(5): resets VmHWM
}
std::int64_t available_bytes() {
  return proc_field("/proc/meminfo", "MemAvailable:");
}

}  // namespace filigree
