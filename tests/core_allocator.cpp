#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "core/build_info.h"
#include "core/device.h"
#include "core/stream.h"
#include "core/tensor.h"
#include "tests/gradcheck.h"

namespace filigree {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kPooling = false;  // the allocator keeps nothing then
#else
constexpr bool kPooling = true;
#endif

class AllocatorTest : public testing::TestWithParam<Device::Type> {
 protected:
  void SetUp() override {
    allocator_.release_cached();
    allocator_.reset_peak();
    start_ = allocator_.statistics();
    ASSERT_EQ(start_.in_use, 0) << "another test leaks a tensor";
  }
  Allocator& allocator_ = allocator(Device{GetParam(), 0});
  MemoryStatistics start_;
};

TEST_P(AllocatorTest, CountsBytesAndRemembersThePeak) {
  void* a = allocator_.allocate(1000);
  EXPECT_EQ(allocator_.statistics().in_use, 1024);  // whole blocks of 64 bytes
  void* b = allocator_.allocate(64);
  EXPECT_EQ(allocator_.statistics().in_use, 1088);
  allocator_.deallocate(a);
  EXPECT_EQ(allocator_.statistics().in_use, 64);
  EXPECT_EQ(allocator_.statistics().peak_in_use, 1088);
  allocator_.reset_peak();
  EXPECT_EQ(allocator_.statistics().peak_in_use, 64);
  allocator_.deallocate(b);
  EXPECT_EQ(allocator_.statistics().in_use, 0);
}

TEST_P(AllocatorTest, ReusesWhatWasFreed) {
  if (!kPooling) GTEST_SKIP() << "no pooling under AddressSanitizer";
  constexpr std::int64_t kBytes = 5 << 20;
  void* a = allocator_.allocate(kBytes);
  allocator_.deallocate(a);
  const std::int64_t reserved = allocator_.statistics().reserved;
  EXPECT_GE(reserved, kBytes);
  for (int i = 0; i < 10; ++i) {
    void* b = allocator_.allocate(kBytes);
    EXPECT_EQ(b, a);
    allocator_.deallocate(b);
  }
  EXPECT_EQ(allocator_.statistics().reserved, reserved);
}

TEST_P(AllocatorTest, CoalescesNeighbours) {
  if (!kPooling) GTEST_SKIP() << "no pooling under AddressSanitizer";
  // 4 blocks that fill one segment exactly, freed in an order that needs merging on both sides.
  constexpr std::int64_t kPart = 2 << 20;
  void* whole = allocator_.allocate(4 * kPart);
  allocator_.deallocate(whole);
  std::vector<void*> parts;
  for (int i = 0; i < 4; ++i) parts.push_back(allocator_.allocate(kPart));
  EXPECT_EQ(allocator_.statistics().reserved, 4 * kPart);
  for (const int i : {0, 2, 1, 3}) allocator_.deallocate(parts[static_cast<std::size_t>(i)]);
  EXPECT_EQ(allocator_.allocate(4 * kPart), whole);
  EXPECT_EQ(allocator_.statistics().reserved, 4 * kPart);
  allocator_.deallocate(whole);
}

TEST_P(AllocatorTest, GivesFreeSegmentsBack) {
  void* kept = allocator_.allocate(3 << 20);
  void* freed = allocator_.allocate(5 << 20);
  allocator_.deallocate(freed);
  allocator_.release_cached();
  EXPECT_GE(allocator_.statistics().reserved, 3 << 20);
  EXPECT_LT(allocator_.statistics().reserved, 6 << 20);
  allocator_.deallocate(kept);
  allocator_.release_cached();
  EXPECT_EQ(allocator_.statistics().reserved, 0);
}

TEST_P(AllocatorTest, RefusesWhatItDoesNotOwn) {
  int x = 0;
  EXPECT_THROW(allocator_.deallocate(&x), std::logic_error);
  void* a = allocator_.allocate(1);
  allocator_.deallocate(a);
  EXPECT_THROW(allocator_.deallocate(a), std::logic_error);
}

INSTANTIATE_TEST_SUITE_P(Devices, AllocatorTest, testing::Values(Device::Type::cpu, Device::Type::meta));

// Mostly small sizes, some of several segments.
std::int64_t random_bytes(Random& random) {
  switch (random.range(0, 5)) {
    case 0:
      return random.range(0, 100);
    case 1:
      return random.range(1, 9) << 20;
    case 2:
      return random.range(1 << 19, 5 << 19);
    default:
      return random.range(0, 100000);
  }
}

TEST(Allocators, MetaPredictsCpuExactly) {
  allocator(Device::cpu()).release_cached();
  allocator(Device::meta()).release_cached();
  const auto run = [](Device device) {
    Allocator& memory = allocator(device);
    memory.reset_peak();
    Random random(test_seed(), 30);
    std::vector<void*> live;
    std::vector<std::int64_t> history;
    for (int step = 0; step < 3000; ++step) {
      if (!live.empty() && random.range(0, 99) < (live.size() > 40 ? 60 : 40)) {
        std::swap(live[random.stream().below(static_cast<std::uint32_t>(live.size()))], live.back());
        memory.deallocate(live.back());
        live.pop_back();
      } else {
        live.push_back(memory.allocate(random_bytes(random)));
      }
      const MemoryStatistics s = memory.statistics();
      history.insert(history.end(), {s.in_use, s.peak_in_use, s.reserved, s.peak_reserved});
    }
    for (void* p : live) memory.deallocate(p);
    return history;
  };
  EXPECT_EQ(run(Device::cpu()), run(Device::meta()));
}

TEST(Allocators, BlocksAreAlignedAndDoNotOverlap) {
  Allocator& memory = allocator(Device::cpu());
  Random random(test_seed(), 31);
  struct Live {
    unsigned char* data;
    std::int64_t bytes;
    unsigned char mark;
  };
  std::vector<Live> live;
  for (int step = 0; step < 500; ++step) {
    if (live.size() < 30 || random.coin()) {
      const std::int64_t bytes = random.range(1, 20000);
      auto* data = static_cast<unsigned char*>(memory.allocate(bytes));
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(data) % 64, 0u);
      live.push_back({data, bytes, static_cast<unsigned char>(step)});
      std::memset(data, live.back().mark, static_cast<std::size_t>(bytes));
    } else {
      std::swap(live[random.stream().below(static_cast<std::uint32_t>(live.size()))], live.back());
      for (std::int64_t i = 0; i < live.back().bytes; ++i) ASSERT_EQ(live.back().data[i], live.back().mark);
      memory.deallocate(live.back().data);
      live.pop_back();
    }
  }
  for (const auto& l : live) memory.deallocate(l.data);
}

TEST(Allocators, ManyThreadsMayShareOne) {
  std::vector<std::thread> threads;
  const std::int64_t before = allocator(Device::cpu()).statistics().in_use;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      Random random(test_seed(), static_cast<std::uint32_t>(40 + t));
      for (int i = 0; i < 300; ++i) {
        const Tensor x = Tensor::full({random.range(1, 3000)}, t);
        for (const float v : x.values<float>()) ASSERT_EQ(v, static_cast<float>(t));
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(allocator(Device::cpu()).statistics().in_use, before);
}

TEST(Allocators, TooMuchIsAnErrorThatSaysHowMuch) {
  try {
    Tensor::empty({std::int64_t{1} << 60}, DType::u8);
    FAIL() << "2^60 bytes were allocated";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::out_of_memory);
    EXPECT_NE(std::string(e.what()).find("MiB"), std::string::npos) << e.what();
    EXPECT_FALSE(e.hint().empty());
  }
  EXPECT_EQ(Tensor::zeros({4}).item(3), 0);  // and the allocator goes on
}

TEST(Allocators, CudaWithoutAGpuIsAnError) {
  if (cuda_unavailable().empty()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_THROW(allocator(Device::cuda()), Error);
  EXPECT_THROW(Tensor::empty({1}, DType::f32, Device::cuda()), Error);
}

// A plan of a GPU run counts the graph's memory beside what the first steps have left cached.
TEST(GraphPool, OnTheMetaDeviceAGraphKeepsItsMemory) {
  constexpr std::int64_t kBytes = 4 << 20;
  const Device device = Device::meta_cuda();
  Allocator& memory = allocator(device);
  memory.release_cached();
  const std::int64_t before = memory.statistics().reserved;
  const auto take = [&] { Tensor::empty({kBytes}, DType::u8, device); };
  take();
  EXPECT_EQ(memory.statistics().reserved - before, kBytes) << "cached";
  {
    Graph graph(device, take);
    EXPECT_EQ(memory.statistics().reserved - before, 2 * kBytes);
    graph.launch();
    take();
    memory.release_cached();
    EXPECT_EQ(memory.statistics().reserved - before, kBytes) << "the graph's";
  }
  EXPECT_EQ(memory.statistics().reserved, before);
}

TEST(HostBuffer, OfMoreThanThereIsIsAnError) {
  EXPECT_THROW(HostBuffer(std::int64_t{1} << 60, Device::cpu()), std::bad_alloc);
}

}  // namespace
}  // namespace filigree
