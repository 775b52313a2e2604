#include "core/build_info.h"

#include <algorithm>
#include <chrono>
#include <fstream>

#include "core/cpu/gemm.h"
#include "core/hdf5_library.h"
#include "core/tensor.h"

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
  return {{"oneDNN", cpu::onednn_version()},
          {"HDF5", hdf5_version()},
          {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)}};
}

double measure_peak_flops() {
  constexpr std::int64_t n = 768;
  const Tensor a = Tensor::full({n, n}, 0.5), b = Tensor::full({n, n}, 0.25);
  Tensor c = Tensor::empty({n, n});
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {  // the first is a warm-up; the best counts
    const auto begin = std::chrono::steady_clock::now();
    cpu::gemm<float>(false, false, n, n, n, 1, a.data<float>(), n, b.data<float>(), n, 0, c.data<float>(), n);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, 2.0 * n * n * n / seconds.count());
  }
  return best;
}

std::int64_t resident_bytes() {
  return proc_field("/proc/self/status", "VmRSS:");
}
std::int64_t peak_resident_bytes() {
  return proc_field("/proc/self/status", "VmHWM:");
}
std::int64_t available_bytes() {
  return proc_field("/proc/meminfo", "MemAvailable:");
}

}  // namespace filigree
