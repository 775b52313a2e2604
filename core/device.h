// Devices and their memory.
//
// `meta` is a device without memory or kernels: tensors have shapes and count bytes, kernels do nothing.
// Running a training step on it gives the exact peak memory in milliseconds (`--dry-run`). There is one in
// the place of the CPU and one in the place of a GPU, since their kernels want different workspaces.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/check.h"

namespace filigree {

struct Device {
  enum class Type : std::uint8_t { cpu, cuda, meta };
  Type type = Type::cpu;
  int index = 0;

  static Device cpu() { return {Type::cpu, 0}; }
  static Device cuda(int index = 0) { return {Type::cuda, index}; }
  static Device meta() { return {Type::meta, 0}; }
  static Device meta_cuda() { return {Type::meta, 1}; }
  bool is_cpu() const { return type == Type::cpu; }
  bool is_cuda() const { return type == Type::cuda; }
  bool is_meta() const { return type == Type::meta; }
  bool like_cuda() const { return is_cuda() || *this == meta_cuda(); }
  std::string str() const;  // "cpu", "cuda:0", "meta"
  bool operator==(const Device&) const = default;
};

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
  virtual void* allocate(std::int64_t bytes) = 0;  // 64-byte aligned; Error(out_of_memory)
  virtual void deallocate(void* pointer) = 0;
  virtual MemoryStatistics statistics() const = 0;
  virtual void reset_peak() = 0;
  virtual void release_cached() = 0;  // gives wholly free segments back to the system
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
  Device device_;
  bool open_ = true;
};

[[noreturn]] void fail_without_cuda();  // Error(usage): this build has no CUDA

}  // namespace filigree
