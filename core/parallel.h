// The CPU's threads. Work is cut into tasks that depend only on the problem, never on the number of threads;
// each task owns what it writes. So results are bitwise the same for any number of threads.
#pragma once

#include <cstdint>
#include <functional>

namespace filigree {

int n_threads();
// 0: one per core. Must not be called from inside a parallel region.
void set_n_threads(int n);

// Runs task(i) for every i in [0, n), smaller i started first, on all threads. A nested call runs serially.
// The first exception of a task is rethrown after all threads have stopped.
void parallel_tasks(std::int64_t n, const std::function<void(std::int64_t)>& task);

// Runs body(begin, end) over [0, n) in ranges of `grain` elements (the last may be shorter).
void parallel_for(std::int64_t n, std::int64_t grain,
                  const std::function<void(std::int64_t, std::int64_t)>& body);

}  // namespace filigree
