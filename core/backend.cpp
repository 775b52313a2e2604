#include "core/backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>

#include "core/check.h"
#include "core/cpu/gemm_plan.h"
#include "core/cuda_built.h"
#include "core/parallel.h"
#include "core/process_memory.h"

namespace filigree {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kPooling = false;  // so that AddressSanitizer sees every tensor as its own allocation
#else
constexpr bool kPooling = true;
#endif

class CpuBackend final : public Backend {
 public:
  void* take(std::int64_t bytes) override {
    if (!kPooling) {
      constexpr std::int64_t kGreatest = std::int64_t{1}
                                         << 39;  // beyond it AddressSanitizer ends the process
      return bytes > kGreatest ? nullptr : std::aligned_alloc(alignment(), bytes);
    }
    void* p =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    madvise(p, bytes, MADV_HUGEPAGE);  // a hint; failure costs only speed
    return p;
  }
  void give(void* pointer, std::int64_t bytes) override {
    if (kPooling)
      munmap(pointer, bytes);
    else
      std::free(pointer);
  }
  bool pools() const override { return kPooling; }
  void copy(void* to, const void* from, std::int64_t bytes, CopyKind) override {
    std::memcpy(to, from, bytes);
  }
  void zero(void* pointer, std::int64_t bytes) override { std::memset(pointer, 0, bytes); }
  std::string description() const override {
    std::ifstream in("/proc/cpuinfo");
    for (std::string line; std::getline(in, line);)
      if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(':') + 2));
    return "unknown cpu";
  }
  std::int64_t free_memory() const override { return available_bytes() + resident_bytes(); }
};

class MetaBackend final : public Backend {
 public:
  explicit MetaBackend(bool like_cuda) : like_cuda_(like_cuda) {}

  void* take(std::int64_t bytes) override {
    constexpr std::int64_t kGap = std::int64_t{2} << 20;
    static std::atomic<std::uintptr_t> next = kGap;  // no two pools of a device share an address
    return reinterpret_cast<void*>(next.fetch_add(static_cast<std::uintptr_t>(bytes + kGap)));
  }
  void give(void*, std::int64_t) override {}
  std::int64_t alignment() const override { return like_cuda_ ? 256 : 64; }
  void copy(void*, const void*, std::int64_t, CopyKind) override {}
  void zero(void*, std::int64_t) override {}
  // In a GPU's place the memory is counted that the graph works in.
  std::shared_ptr<void> capture(const std::function<void()>& f) override {
    f();
    return nullptr;
  }
  std::string description() const override { return "meta"; }
  std::int64_t free_memory() const override { return 0; }
  std::int64_t product_workspace(std::int64_t batch, std::int64_t m, std::int64_t n,
                                 std::int64_t k) const override {
    if (like_cuda_ || batch >= cpu::kSmallBatch || m * n == 0) return 0;
    return cpu::GemmPlan(m, n, std::max<std::int64_t>(k, 1)).partial_sums(m, n);
  }
  std::int64_t linear_workspace(std::int64_t rows, std::int64_t out, std::int64_t in) const override {
    return rows <= cpu::kFewRows ? 0 : product_workspace(1, rows, out, in);
  }

 private:
  bool like_cuda_;
};

}  // namespace

std::shared_ptr<void> Backend::host_memory(std::int64_t bytes) {
  std::shared_ptr<void> memory(std::calloc(static_cast<std::size_t>(bytes), 1), std::free);
  if (!memory) throw std::bad_alloc();
  return memory;
}

Backend& backend(Device device) {
  // Never destroyed: tensors of static lifetime may outlive main.
  static auto* cpu = new CpuBackend;
  static auto* meta = new MetaBackend(false);
  static auto* meta_cuda = new MetaBackend(true);
  if (device.is_cpu()) return *cpu;
  if (device.is_meta()) return device.like_cuda() ? *meta_cuda : *meta;
  if constexpr (kCudaBuilt) return cuda::backend(device.index);
  fail_without_cuda();
}

std::int64_t bytes_beside_tensors(Device device, std::int64_t largest) {
  if (device.like_cuda()) return cuda::kProductWorkspaceBytes;
  // Buffers of the attention kernels, what first uses of oneDNN and HDF5 map, holes in the heap.
  constexpr std::int64_t kOnce = std::int64_t{10} << 20, kPerThread = std::int64_t{1} << 19;
  return kOnce + n_threads() * (kPerThread + cpu::gemm_heap_holes(largest));
}

void fail_without_cuda() {
  throw Error(ErrorKind::usage, "this filigree was built without CUDA",
              "use device: cpu, or install the CUDA toolkit (nvcc) and build again");
}

}  // namespace filigree
