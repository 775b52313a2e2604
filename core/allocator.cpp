#include "core/allocator.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "core/backend.h"
#include "core/check.h"

namespace filigree {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
constexpr std::int64_t kSmall = std::int64_t{1} << 20;  // smaller requests share segments of one huge page
constexpr std::int64_t kMinSplit = 512;                 // a smaller remainder stays with its block

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

class Pool {
 public:
  // Adds to `statistics`, which all pools of a device share.
  Pool(Device device, std::shared_ptr<MemoryStatistics> statistics)
      : name_(device.str()), backend_(backend(device)), statistics_(std::move(statistics)) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { release_all(); }

  void* allocate(std::int64_t bytes) {
    const std::lock_guard lock(mutex_);
    const std::int64_t size = round_up(std::max<std::int64_t>(bytes, 1), backend_.alignment());
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

  // False if it is not this pool's.
  bool deallocate(void* pointer) {
    const std::lock_guard lock(mutex_);
    const auto found = used_.find(static_cast<char*>(pointer));
    if (found == used_.end()) return false;
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
    if (!backend_.pools()) release(block);
    return true;
  }

  MemoryStatistics statistics() const {
    const std::lock_guard lock(mutex_);
    return *statistics_;
  }

  void reset_peak() {
    const std::lock_guard lock(mutex_);
    statistics_->peak_in_use = statistics_->in_use;
    statistics_->peak_reserved = statistics_->reserved;
  }

  void release_cached() {
    const std::lock_guard lock(mutex_);
    release_all();
  }

 private:
  static std::int64_t round_up(std::int64_t x, std::int64_t to) { return (x + to - 1) / to * to; }

  Block* new_segment(std::int64_t size, bool small) {
    const std::int64_t bytes = backend_.pools() ? round_up(size, kHugePage) : size;
    void* memory = backend_.take(bytes);
    if (!memory) {
      release_all();
      memory = backend_.take(bytes);
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
    backend_.give(block->address, block->size);
    delete block;
  }

  void release_all() {
    for (auto& pool : pool_)
      for (auto it = pool.begin(); it != pool.end();) release(*it++);
  }

  std::string name_;
  Backend& backend_;
  mutable std::mutex mutex_;
  std::set<Block*, BySize> pool_[2];  // free blocks: large, small
  std::unordered_map<char*, Block*> used_;
  std::int64_t next_segment_ = 0;
  std::shared_ptr<MemoryStatistics> statistics_;
};

// The memory that a graph was captured with must stay the graph's: it lies in a pool of its own.
class PooledAllocator final : public Allocator {
 public:
  explicit PooledAllocator(Device device) : device_(device) { PooledAllocator::open_pool(); }

  void* allocate(std::int64_t bytes) override { return pools_.back()->allocate(bytes); }
  void deallocate(void* pointer) override {
    for (const auto& pool : pools_)
      if (pool->deallocate(pointer)) return;
    for (const auto& pool : closed_)
      if (const auto kept = pool.lock(); kept && kept->deallocate(pointer)) return;
    check(false, "freed memory that the allocator does not own");
  }
  MemoryStatistics statistics() const override { return pools_[0]->statistics(); }
  void reset_peak() override { pools_[0]->reset_peak(); }
  void release_cached() override { pools_[0]->release_cached(); }

 private:
  void open_pool() override { pools_.push_back(std::make_shared<Pool>(device_, statistics_)); }
  std::shared_ptr<void> close_pool() override {
    auto pool = pools_.back();
    pools_.pop_back();
    closed_.push_back(pool);
    return pool;
  }

  Device device_;
  std::shared_ptr<MemoryStatistics> statistics_ = std::make_shared<MemoryStatistics>();
  std::vector<std::shared_ptr<Pool>> pools_;  // the last one serves; the first is no graph's
  std::vector<std::weak_ptr<Pool>> closed_;
};

}  // namespace

Allocator& allocator(Device device) {
  // Never destroyed: tensors of static lifetime may outlive main.
  static auto* cpu = new PooledAllocator(Device::cpu());
  static auto* meta = new PooledAllocator(Device::meta());
  static auto* meta_cuda = new PooledAllocator(Device::meta_cuda());
  if (device.is_cpu()) return *cpu;
  if (device.is_meta()) return device.like_cuda() ? *meta_cuda : *meta;
  static auto* gpus = new std::map<int, std::unique_ptr<PooledAllocator>>;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  auto& found = (*gpus)[device.index];
  if (!found) found = std::make_unique<PooledAllocator>(device);
  return *found;
}

GraphPool::GraphPool(Device device) : allocator_(allocator(device)) {
  allocator_.open_pool();
}

std::shared_ptr<void> GraphPool::close() {
  open_ = false;
  return allocator_.close_pool();
}

GraphPool::~GraphPool() {
  if (open_) close();
}

}  // namespace filigree
