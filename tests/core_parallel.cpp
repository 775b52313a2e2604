#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"
#include "tests/gradcheck.h"

namespace filigree {
namespace {

class Parallel : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    before_ = n_threads();
    set_n_threads(GetParam());
  }
  void TearDown() override { set_n_threads(before_); }

 private:
  int before_ = 1;
};

TEST_P(Parallel, RunsEveryTaskOnce) {
  for (const std::int64_t n : {0, 1, 2, 3, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(n));
    parallel_tasks(n, [&](std::int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
    for (const auto& r : runs) EXPECT_EQ(r.load(), 1);
  }
}

TEST_P(Parallel, RangesCoverEverythingAndDependOnTheGrainAlone) {
  Random random(test_seed(), 20);
  for (int round = 0; round < 50; ++round) {
    const std::int64_t n = random.size(0, 1000), grain = random.size(1, 100);
    std::vector<std::int64_t> end_of(static_cast<std::size_t>(n));
    parallel_for(n, grain, [&](std::int64_t begin, std::int64_t end) {
      EXPECT_EQ(begin % grain, 0);
      for (auto i = begin; i < end; ++i) end_of[static_cast<std::size_t>(i)] = end;
    });
    for (std::int64_t i = 0; i < n; ++i)
      ASSERT_EQ(end_of[static_cast<std::size_t>(i)], std::min(n, (i / grain + 1) * grain));
  }
  EXPECT_THROW(parallel_for(5, 0, [](auto, auto) {}), std::logic_error);
}

TEST_P(Parallel, RethrowsTheExceptionAndStaysUsable) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> started = 0;
    std::atomic<bool> thrown = false;
    const auto task = [&](std::int64_t i) {
      ++started;
      if (i == 5) {
        thrown = true;
        throw std::runtime_error("five");
      }
      // The thread that throws may lose its core before and after; the others must not finish meanwhile.
      while (i > 5 && !thrown) std::this_thread::yield();
      if (thrown) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    };
    EXPECT_THROW(parallel_tasks(100000, task), std::runtime_error);
    EXPECT_LT(started, 100000);
    std::atomic<int> sum = 0;
    parallel_tasks(10, [&](std::int64_t i) { sum += static_cast<int>(i); });
    EXPECT_EQ(sum, 45);
  }
}

TEST_P(Parallel, NestedRegionsRunOnTheCallingThread) {
  std::atomic<int> inner = 0;
  parallel_tasks(8, [&](std::int64_t) {
    const auto outer_thread = std::this_thread::get_id();
    std::int64_t last = -1;
    parallel_tasks(5, [&](std::int64_t i) {
      EXPECT_EQ(std::this_thread::get_id(), outer_thread);
      EXPECT_EQ(i, ++last);  // in order
      ++inner;
    });
  });
  EXPECT_EQ(inner, 40);
}

TEST_P(Parallel, NestedExceptionsReachTheCaller) {
  EXPECT_THROW(parallel_tasks(4,
                              [](std::int64_t) {
                                parallel_tasks(4, [](std::int64_t i) { require(i != 2, "[test] {}", i); });
                              }),
               Error);
}

TEST_P(Parallel, RegionsOfSeveralCallersDoNotMix) {
  std::vector<std::int64_t> sums(4);
  std::vector<std::thread> callers;
  for (auto& sum : sums)
    callers.emplace_back([&sum] {
      for (int round = 0; round < 50; ++round) {
        std::vector<std::int64_t> parts(64);
        parallel_tasks(64, [&](std::int64_t i) { parts[static_cast<std::size_t>(i)] = i; });
        sum += std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
      }
    });
  for (auto& c : callers) c.join();
  for (const auto sum : sums) EXPECT_EQ(sum, 50 * 2016);
}

INSTANTIATE_TEST_SUITE_P(Threads, Parallel, testing::Values(1, 2, 3, 7));

TEST(Threads, CountIsWhatWasSet) {
  const int before = n_threads();
  for (const int n : {1, 3, 2}) {
    set_n_threads(n);
    EXPECT_EQ(n_threads(), n);
  }
  EXPECT_THROW(set_n_threads(-1), Error);
  EXPECT_THROW(set_n_threads(100000), Error);
  EXPECT_EQ(n_threads(), 2);
  set_n_threads(0);
  EXPECT_GE(n_threads(), 1);
  set_n_threads(before);
}

TEST(Threads, CannotChangeInsideARegion) {
  EXPECT_THROW(parallel_tasks(4, [](std::int64_t) { set_n_threads(2); }), std::logic_error);
}

}  // namespace
}  // namespace filigree
