// The memory of tensors.
#pragma once

#include <cstdint>
#include <memory>

#include "core/device.h"

namespace filigree {

struct MemoryStatistics {
  std::int64_t in_use = 0;  // bytes in live tensors, rounded up to whole blocks
  std::int64_t peak_in_use = 0;
  std::int64_t reserved = 0;       // bytes taken from the system, cached ones included
  std::int64_t peak_reserved = 0;  // what the process's resident set sees
};

// Caching best-fit allocator: blocks are split and coalesced inside segments that are taken from the system
// and kept, so that a training step that repeats costs no page faults. Its decisions depend only on the
// sequence of sizes, never on addresses: `meta` predicts `cpu` exactly. Thread-safe.
class Allocator {
 public:
  virtual ~Allocator() = default;
  virtual void* allocate(std::int64_t bytes) = 0;  // 64-byte aligned, 256 on CUDA; Error(out_of_memory)
  virtual void deallocate(void* pointer) = 0;
  virtual MemoryStatistics statistics() const = 0;
  virtual void reset_peak() = 0;
  virtual void release_cached() = 0;  // gives wholly free segments back to the system

 private:
  friend class GraphPool;
  virtual void open_pool() = 0;
  virtual std::shared_ptr<void> close_pool() = 0;
};

Allocator& allocator(Device device);

// While one is open, the device's new tensors lie in memory of their own, which only the result of close()
// keeps: what a captured graph works in.
class GraphPool {
 public:
  explicit GraphPool(Device device);
  ~GraphPool();
  GraphPool(const GraphPool&) = delete;
  GraphPool& operator=(const GraphPool&) = delete;
  std::shared_ptr<void> close();

 private:
  Allocator& allocator_;
  bool open_ = true;
};

}  // namespace filigree
