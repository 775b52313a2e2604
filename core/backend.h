// A device beside its kernels: memory, copies, events, graphs, and what it tells of itself. There is
// one object per device. The CPU does everything at once and a meta device does nothing; what a GPU is told
// is ordered by its one stream, and it waits only where that is said.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/device.h"

namespace filigree {

enum class CopyKind { from_host, to_host, within };

class Backend {
 public:
  virtual ~Backend() = default;

  // --- memory ---
  virtual void* take(std::int64_t bytes) = 0;  // nullptr when there is none left
  virtual void give(void* pointer, std::int64_t bytes) = 0;
  virtual std::int64_t alignment() const { return 64; }  // of what is taken, and of tensors in it
  virtual bool pools() const { return true; }            // false: every tensor is taken on its own
  // Memory of the host that copies from and to the device need not wait for: pinned for a GPU.
  virtual std::shared_ptr<void> host_memory(std::int64_t bytes);

  // --- work ---
  virtual void copy(void* to, const void* from, std::int64_t bytes, CopyKind kind) = 0;
  virtual void zero(void* pointer, std::int64_t bytes) = 0;
  virtual void synchronize() {}
  virtual std::shared_ptr<void> make_event() { return nullptr; }
  virtual void record(void* /*event*/) {}
  virtual void wait(void* /*event*/) {}  // on the host
  // Everything that f enqueues becomes a graph instead of running; nullptr where there is none.
  virtual std::shared_ptr<void> capture(const std::function<void()>& /*f*/) { return nullptr; }
  virtual void launch(void* /*graph*/) {}

  // --- what it tells ---
  virtual std::string description() const = 0;  // "NVIDIA H100 80GB HBM3, compute capability 9.0, 79.2 GiB"
  virtual std::int64_t free_memory() const = 0;
  // Elements that products y = a b (m x n x k, `batch` of them) and linear layers take of the allocator while
  // they run. Only meta devices tell: their kernels do not run.
  virtual std::int64_t product_workspace(std::int64_t /*batch*/, std::int64_t /*m*/, std::int64_t /*n*/,
                                         std::int64_t /*k*/) const {
    return 0;
  }
  virtual std::int64_t linear_workspace(std::int64_t /*rows*/, std::int64_t /*out*/,
                                        std::int64_t /*in*/) const {
    return 0;
  }
};

// Error(usage) where the device cannot be used.
Backend& backend(Device device);

// Bytes that a process takes beside its tensors, where products have matrices of up to `largest` elements.
std::int64_t bytes_beside_tensors(Device device, std::int64_t largest);

[[noreturn]] void fail_without_cuda();  // Error(usage): this build has no CUDA

// core/cuda/backend.cu; to be called only where kCudaBuilt.
namespace cuda {

// Each has one stream. Error(usage) for a device that cannot be used, saying why; a failed call of ours is a
// std::logic_error with CUDA's own message, and so is an error of an earlier kernel.
Backend& backend(int index);
// Empty if device 0 can be used; else why not: no driver, no device, a driver or a card too old.
std::string why_unavailable();
std::string runtime_versions();  // "13.0, driver 13.0"

// Products by cuBLASLt take this of a device for sums over parts of k, once and beside the allocator.
inline constexpr std::int64_t kProductWorkspaceBytes = std::int64_t{64} << 20;

}  // namespace cuda
}  // namespace filigree
