#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/check.h"

namespace filigree {
namespace {

thread_local bool inside_region = false;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Workers spin for about 20 microseconds after a region, so that the many short regions of a training step
// start without a system call, and then sleep on a futex.
class ThreadPool {
 public:
  explicit ThreadPool(int n) {
    for (int i = 1; i < n; ++i) workers_.emplace_back([this] { work(); });
  }
  ~ThreadPool() {
    stop_ = true;
    generation_.fetch_add(1);
    generation_.notify_all();
    for (auto& w : workers_) w.join();
  }

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  void run(std::int64_t n, const std::function<void(std::int64_t)>& task) {
    task_ = &task;
    count_ = n;
    next_.store(0);
    error_ = nullptr;
    running_.store(static_cast<int>(workers_.size()));
    generation_.fetch_add(1);
    generation_.notify_all();
    take_tasks();
    for (int left = running_.load(), spins = 0; left != 0; left = running_.load()) {
      if (++spins < kSpins) {
        pause();
      } else {
        running_.wait(left);
      }
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int kSpins = 2000;

  void take_tasks() {
    inside_region = true;
    try {
      for (std::int64_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) (*task_)(i);
    } catch (...) {
      const std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
      next_.store(count_);  // the rest is not worth starting
    }
    inside_region = false;
  }

  void work() {
    for (std::uint32_t seen = 0;;) {
      for (int spins = 0; generation_.load() == seen;) {
        if (++spins < kSpins) {
          pause();
        } else {
          generation_.wait(seen);
        }
      }
      ++seen;
      if (stop_) return;
      take_tasks();
      if (running_.fetch_sub(1) == 1) running_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<int> running_{0};
  std::atomic<std::int64_t> next_{0};
  std::atomic<bool> stop_{false};
  const std::function<void(std::int64_t)>* task_ = nullptr;
  std::int64_t count_ = 0;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

// The context of the CPU device.
struct CpuContext {
  std::mutex mutex;  // one region at a time; a second thread of the caller's waits
  std::unique_ptr<ThreadPool> pool;
  ThreadPool& get() {
    if (!pool) pool = std::make_unique<ThreadPool>(std::max(1u, std::thread::hardware_concurrency()));
    return *pool;
  }
};

CpuContext& context() {
  static CpuContext instance;
  return instance;
}

}  // namespace

int n_threads() {
  const std::lock_guard lock(context().mutex);
  return context().get().size();
}

void set_n_threads(int n) {
  check(!inside_region, "set_n_threads inside a parallel region");
  require(n >= 0 && n <= 1024, "[threads] {} threads; give 0 (one per core) to 1024", n);
  const std::lock_guard lock(context().mutex);
  const int wanted = n ? n : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (context().pool && context().pool->size() == wanted) return;
  context().pool.reset();
  context().pool = std::make_unique<ThreadPool>(wanted);
}

void parallel_tasks(std::int64_t n, const std::function<void(std::int64_t)>& task) {
  if (n <= 0) return;
  if (n == 1 || inside_region) {
    for (std::int64_t i = 0; i < n; ++i) task(i);
    return;
  }
  const std::lock_guard lock(context().mutex);
  context().get().run(n, task);
}

void parallel_for(std::int64_t n, std::int64_t grain,
                  const std::function<void(std::int64_t, std::int64_t)>& body) {
  check(grain > 0, "parallel_for needs a positive grain");
  parallel_tasks((n + grain - 1) / grain,
                 [&](std::int64_t i) { body(i * grain, std::min(n, (i + 1) * grain)); });
}

}  // namespace filigree
