#include "core/device.h"

#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <tuple>
#include <unordered_map>

namespace filigree {
namespace {

constexpr std::int64_t kAlignment = 64;
constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
constexpr std::int64_t kSmall = std::int64_t{1} << 20;  // smaller requests share segments of one huge page
constexpr std::int64_t kMinSplit = 512;                 // a smaller remainder stays with its block

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kPooling = false;  // so that AddressSanitizer sees every tensor as its own allocation
#else
constexpr bool kPooling = true;
#endif

// Where segments come from.
class Source {
 public:
  virtual ~Source() = default;
  virtual void* take(std::int64_t bytes) = 0;  // nullptr when there is none left
  virtual void give(void* pointer, std::int64_t bytes) = 0;
};

class SystemMemory final : public Source {
 public:
  void* take(std::int64_t bytes) override {
    void* p = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    madvise(p, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);  // a hint; failure costs only speed
    return p;
  }
  void give(void* pointer, std::int64_t bytes) override { munmap(pointer, static_cast<std::size_t>(bytes)); }
};

class NoMemory final : public Source {
 public:
  void* take(std::int64_t bytes) override {
    next_ += bytes + kHugePage;
    return reinterpret_cast<void*>(next_ - bytes);
  }
  void give(void*, std::int64_t) override {}

 private:
  std::uintptr_t next_ = kHugePage;
};

struct Block {
  std::int64_t segment, offset, size;  // segment: serial number, for an order free of addresses
  char* address;
  Block* previous = nullptr;  // neighbours in the same segment
  Block* next = nullptr;
  bool free = true;
  bool small = false;
};

struct BySize {
  bool operator()(const Block* a, const Block* b) const {
    return std::tie(a->size, a->segment, a->offset) < std::tie(b->size, b->segment, b->offset);
  }
};

class CachingAllocator final : public Allocator {
 public:
  CachingAllocator(std::string name, std::unique_ptr<Source> source)
      : name_(std::move(name)), source_(std::move(source)) {}

  void* allocate(std::int64_t bytes) override {
    const std::lock_guard lock(mutex_);
    const std::int64_t size = round_up(std::max<std::int64_t>(bytes, 1), kAlignment);
    const bool small = size < kSmall;
    auto& pool = pool_[small];
    Block probe{-1, -1, size, nullptr};
    const auto found = pool.lower_bound(&probe);
    Block* block = found == pool.end() ? new_segment(size, small) : *found;
    pool.erase(block);
    if (block->size - size >= kMinSplit) split(block, size);
    block->free = false;
    used_[block->address] = block;
    statistics_.in_use += block->size;
    statistics_.peak_in_use = std::max(statistics_.peak_in_use, statistics_.in_use);
    return block->address;
  }

  void deallocate(void* pointer) override {
    const std::lock_guard lock(mutex_);
    const auto found = used_.find(static_cast<char*>(pointer));
    check(found != used_.end(), "freed memory that the allocator does not own");
    Block* block = found->second;
    used_.erase(found);
    statistics_.in_use -= block->size;
    block->free = true;
    block = merge_with_next(block);
    if (block->previous && block->previous->free) {
      pool_[block->small].erase(block->previous);
      block = merge_with_next(block->previous);
    }
    pool_[block->small].insert(block);
    if (!kPooling) release(block);
  }

  MemoryStatistics statistics() const override {
    const std::lock_guard lock(mutex_);
    return statistics_;
  }

  void reset_peak() override {
    const std::lock_guard lock(mutex_);
    statistics_.peak_in_use = statistics_.in_use;
    statistics_.peak_reserved = statistics_.reserved;
  }

  void release_cached() override {
    const std::lock_guard lock(mutex_);
    release_all();
  }

  ~CachingAllocator() override { release_all(); }

 private:
  static std::int64_t round_up(std::int64_t x, std::int64_t to) { return (x + to - 1) / to * to; }

  Block* new_segment(std::int64_t size, bool small) {
    const std::int64_t bytes = kPooling ? round_up(size, kHugePage) : size;
    void* memory = source_->take(bytes);
    if (!memory) {
      release_all();
      memory = source_->take(bytes);
    }
    if (!memory)
      throw Error(
          ErrorKind::out_of_memory,
          fmt::format("{}: no memory for {:.1f} MiB; {:.1f} MiB are in use, {:.1f} MiB at the peak", name_,
                      size / 1048576.0, statistics_.in_use / 1048576.0, statistics_.peak_in_use / 1048576.0),
          "lower train.micro_batch_size or data.seq_len, or set model.activation_checkpointing: true");
    statistics_.reserved += bytes;
    statistics_.peak_reserved = std::max(statistics_.peak_reserved, statistics_.reserved);
    auto* block = new Block{next_segment_++, 0, bytes, static_cast<char*>(memory)};
    block->small = small;
    pool_[small].insert(block);
    return block;
  }

  void split(Block* block, std::int64_t size) {
    auto* rest = new Block{block->segment, block->offset + size, block->size - size, block->address + size,
                           block,          block->next};
    rest->small = block->small;
    if (rest->next) rest->next->previous = rest;
    block->next = rest;
    block->size = size;
    pool_[rest->small].insert(rest);
  }

  // `block` must not be in a pool.
  Block* merge_with_next(Block* block) {
    Block* next = block->next;
    if (!next || !next->free) return block;
    pool_[next->small].erase(next);  // does nothing for the block that is being freed
    block->size += next->size;
    block->next = next->next;
    if (block->next) block->next->previous = block;
    delete next;
    return block;
  }

  void release(Block* block) {
    if (block->previous || block->next) return;  // the segment is still in use
    pool_[block->small].erase(block);
    statistics_.reserved -= block->size;
    source_->give(block->address, block->size);
    delete block;
  }

  void release_all() {
    for (auto& pool : pool_)
      for (auto it = pool.begin(); it != pool.end();) release(*it++);
  }

  std::string name_;
  std::unique_ptr<Source> source_;
  mutable std::mutex mutex_;
  std::set<Block*, BySize> pool_[2];  // free blocks: large, small
  std::unordered_map<char*, Block*> used_;
  std::int64_t next_segment_ = 0;
  MemoryStatistics statistics_;
};

// For AddressSanitizer: plain allocations, so that red zones surround every tensor.
class Heap final : public Source {
 public:
  void* take(std::int64_t bytes) override {
    if (bytes > kGreatest) return nullptr;  // AddressSanitizer would end the process
    return std::aligned_alloc(kAlignment, static_cast<std::size_t>(bytes));
  }
  void give(void* pointer, std::int64_t) override { std::free(pointer); }

 private:
  static constexpr std::int64_t kGreatest = std::int64_t{1} << 39;
};

std::unique_ptr<Source> cpu_source() {
  if (kPooling) return std::make_unique<SystemMemory>();
  return std::make_unique<Heap>();
}

}  // namespace

std::string Device::str() const {
  if (type == Type::cpu) return "cpu";
  if (type == Type::meta) return "meta";
  return fmt::format("cuda:{}", index);
}

Allocator& allocator(Device device) {
  // Never destroyed: tensors of static lifetime may outlive main.
  static auto* cpu = new CachingAllocator("cpu", cpu_source());
  static auto* meta = new CachingAllocator("meta", std::make_unique<NoMemory>());
  if (device.is_cpu()) return *cpu;
  if (device.is_meta()) return *meta;
  throw Error(ErrorKind::usage, "this filigree was built without CUDA", "use device: cpu");
}

}  // namespace filigree
