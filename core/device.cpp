#include "core/device.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <tuple>
#include <unordered_map>
#include <vector>

#ifdef FILIGREE_CUDA
#include "core/cuda/runtime.h"
#endif

namespace filigree {
namespace {

constexpr std::int64_t kCacheLine = 64;       // alignment on the CPU
constexpr std::int64_t kCudaAlignment = 256;  // of cudaMalloc
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
    void* p =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    madvise(p, bytes, MADV_HUGEPAGE);  // a hint; failure costs only speed
    return p;
  }
  void give(void* pointer, std::int64_t bytes) override { munmap(pointer, bytes); }
};

class NoMemory final : public Source {
 public:
  void* take(std::int64_t bytes) override {
    static std::atomic<std::uintptr_t> next = kHugePage;  // no two pools of a device share an address
    return reinterpret_cast<void*>(next.fetch_add(static_cast<std::uintptr_t>(bytes + kHugePage)));
  }
  void give(void*, std::int64_t) override {}
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
  // Adds to `statistics`, which several allocators of one device may share.
  CachingAllocator(std::string name, std::unique_ptr<Source> source, bool pooling = true,
                   std::int64_t alignment = kCacheLine,
                   std::shared_ptr<MemoryStatistics> statistics = std::make_shared<MemoryStatistics>())
      : name_(std::move(name)),
        source_(std::move(source)),
        pooling_(pooling),
        alignment_(alignment),
        statistics_(std::move(statistics)) {}

  void* allocate(std::int64_t bytes) override {
    const std::lock_guard lock(mutex_);
    const std::int64_t size = round_up(std::max<std::int64_t>(bytes, 1), alignment_);
    const bool small = size < kSmall;
    auto& pool = pool_[small];
    Block probe{-1, -1, size, nullptr};
    const auto found = pool.lower_bound(&probe);
    Block* block = found == pool.end() ? new_segment(size, small) : *found;
    pool.erase(block);
    if (block->size - size >= kMinSplit) split(block, size);
    block->free = false;
    used_[block->address] = block;
    statistics_->in_use += block->size;
    statistics_->peak_in_use = std::max(statistics_->peak_in_use, statistics_->in_use);
    return block->address;
  }

  bool owns(void* pointer) const {
    const std::lock_guard lock(mutex_);
    return used_.contains(static_cast<char*>(pointer));
  }

  void deallocate(void* pointer) override {
    const std::lock_guard lock(mutex_);
    const auto found = used_.find(static_cast<char*>(pointer));
    check(found != used_.end(), "freed memory that the allocator does not own");
    Block* block = found->second;
    used_.erase(found);
    statistics_->in_use -= block->size;
    block->free = true;
    block = merge_with_next(block);
    if (block->previous && block->previous->free) {
      pool_[block->small].erase(block->previous);
      block = merge_with_next(block->previous);
    }
    pool_[block->small].insert(block);
    if (!pooling_) release(block);
  }

  MemoryStatistics statistics() const override {
    const std::lock_guard lock(mutex_);
    return *statistics_;
  }

  void reset_peak() override {
    const std::lock_guard lock(mutex_);
    statistics_->peak_in_use = statistics_->in_use;
    statistics_->peak_reserved = statistics_->reserved;
  }

  void release_cached() override {
    const std::lock_guard lock(mutex_);
    release_all();
  }

  ~CachingAllocator() override { release_all(); }

 private:
  static std::int64_t round_up(std::int64_t x, std::int64_t to) { return (x + to - 1) / to * to; }

  Block* new_segment(std::int64_t size, bool small) {
    const std::int64_t bytes = pooling_ ? round_up(size, kHugePage) : size;
    void* memory = source_->take(bytes);
    if (!memory) {
      release_all();
      memory = source_->take(bytes);
    }
    if (!memory)
      throw Error(
          ErrorKind::out_of_memory,
          fmt::format("{}: no memory for {:.1f} MiB; {:.1f} MiB are in use, {:.1f} MiB at the peak", name_,
                      size / 1048576.0, statistics_->in_use / 1048576.0,
                      statistics_->peak_in_use / 1048576.0),
          "lower train.micro_batch_size or data.seq_len, or set model.activation_checkpointing: true");
    statistics_->reserved += bytes;
    statistics_->peak_reserved = std::max(statistics_->peak_reserved, statistics_->reserved);
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
    statistics_->reserved -= block->size;
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
  bool pooling_;
  std::int64_t alignment_;
  std::shared_ptr<MemoryStatistics> statistics_;
};

// For AddressSanitizer: plain allocations, so that red zones surround every tensor.
class Heap final : public Source {
 public:
  void* take(std::int64_t bytes) override {
    if (bytes > kGreatest) return nullptr;  // AddressSanitizer would end the process
    return std::aligned_alloc(kCacheLine, bytes);
  }
  void give(void* pointer, std::int64_t) override { std::free(pointer); }

 private:
  static constexpr std::int64_t kGreatest = std::int64_t{1} << 39;
};

std::unique_ptr<Source> cpu_source() {
  if (kPooling) return std::make_unique<SystemMemory>();
  return std::make_unique<Heap>();
}

// The memory of one GPU, or of the meta device in its place. What a graph was captured with must stay the
// graph's: it lives in a pool of its own.
class PooledAllocator final : public Allocator {
 public:
  using MakeSource = std::function<std::unique_ptr<Source>()>;

  PooledAllocator(std::string name, MakeSource make_source, bool pooling)
      : name_(std::move(name)),
        make_source_(std::move(make_source)),
        pooling_(pooling),
        statistics_(std::make_shared<MemoryStatistics>()) {
    open_pool();
  }

  void* allocate(std::int64_t bytes) override { return pools_.back()->allocate(bytes); }
  void deallocate(void* pointer) override {
    const auto owner = std::ranges::find_if(pools_, [=](const auto& pool) { return pool->owns(pointer); });
    if (owner != pools_.end()) return (*owner)->deallocate(pointer);
    for (const auto& pool : closed_)
      if (const auto open = pool.lock(); open && open->owns(pointer)) return open->deallocate(pointer);
    check(false, "freed memory that the allocator does not own");
  }
  MemoryStatistics statistics() const override { return pools_[0]->statistics(); }
  void reset_peak() override { pools_[0]->reset_peak(); }
  void release_cached() override { pools_[0]->release_cached(); }

  void open_pool() {
    pools_.push_back(
        std::make_shared<CachingAllocator>(name_, make_source_(), pooling_, kCudaAlignment, statistics_));
  }
  std::shared_ptr<void> close_pool() {
    auto pool = pools_.back();
    pools_.pop_back();
    closed_.push_back(pool);
    return pool;
  }

 private:
  std::string name_;
  MakeSource make_source_;
  bool pooling_;
  std::shared_ptr<MemoryStatistics> statistics_;
  std::vector<std::shared_ptr<CachingAllocator>> pools_;  // the last one serves; the first is no graph's
  std::vector<std::weak_ptr<CachingAllocator>> closed_;
};

#ifdef FILIGREE_CUDA

class CudaMemory final : public Source {
 public:
  explicit CudaMemory(int device) : device_(device) {}
  void* take(std::int64_t bytes) override { return cuda::allocate(device_, bytes); }
  void give(void* pointer, std::int64_t) override { cuda::release(device_, pointer); }

 private:
  int device_;
};

PooledAllocator& cuda_allocator(int index) {
  static auto* devices = new std::map<int, std::unique_ptr<PooledAllocator>>;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  auto& found = (*devices)[index];
  if (!found) {
    if (const std::string why = cuda::why_unavailable(); !why.empty())
      throw Error(ErrorKind::usage, "device: cuda cannot be used: " + why, "use device: cpu");
    // FILIGREE_CUDA_POOLING=off, for compute-sanitizer: every tensor is an allocation of its own.
    const char* pooling = std::getenv("FILIGREE_CUDA_POOLING");
    found = std::make_unique<PooledAllocator>(
        Device::cuda(index).str(), [index] { return std::make_unique<CudaMemory>(index); },
        !pooling || std::strcmp(pooling, "off") != 0);
  }
  return *found;
}

#endif

PooledAllocator& meta_cuda_allocator() {
  static auto* meta = new PooledAllocator(
      "meta", [] { return std::make_unique<NoMemory>(); }, /*pooling=*/true);
  return *meta;
}

PooledAllocator* pooled_allocator(Device device) {
  if (device == Device::meta_cuda()) return &meta_cuda_allocator();
#ifdef FILIGREE_CUDA
  if (device.is_cuda()) return &cuda_allocator(device.index);
#endif
  return nullptr;
}

}  // namespace

std::string Device::str() const {
  if (type == Type::cpu) return "cpu";
  if (type == Type::meta) return "meta";
  return fmt::format("cuda:{}", index);
}

void fail_without_cuda() {
  throw Error(ErrorKind::usage, "this filigree was built without CUDA",
              "use device: cpu, or install the CUDA toolkit (nvcc) and build again");
}

Allocator& allocator(Device device) {
  // Never destroyed: tensors of static lifetime may outlive main.
  static auto* cpu = new CachingAllocator("cpu", cpu_source(), kPooling);
  static auto* meta = new CachingAllocator("meta", std::make_unique<NoMemory>());
  if (device.is_cpu()) return *cpu;
  if (PooledAllocator* pooled = pooled_allocator(device)) return *pooled;
  if (device.is_meta()) return *meta;
  fail_without_cuda();
}

GraphPool::GraphPool(Device device) : device_(device) {
  if (PooledAllocator* pooled = pooled_allocator(device_)) pooled->open_pool();
}

std::shared_ptr<void> GraphPool::close() {
  open_ = false;
  if (PooledAllocator* pooled = pooled_allocator(device_)) return pooled->close_pool();
  return nullptr;
}

GraphPool::~GraphPool() {
  if (open_) close();
}

}  // namespace filigree
