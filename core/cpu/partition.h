// How elementwise and row kernels are cut into tasks: by the shape alone, never by the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "core/parallel.h"

namespace filigree::cpu {

// Elements per task: enough to pay for starting it (about a microsecond), few enough to balance.
inline constexpr std::int64_t kTaskElements = 1 << 14;

// body(begin, end) over [0, n) elements.
template <class F>
void parallel_elements(std::int64_t n, F&& body) {
  parallel_for(n, kTaskElements, body);
}

// body(first_row, last_row) over [0, rows) rows of `row_elements` each.
template <class F>
void parallel_rows(std::int64_t rows, std::int64_t row_elements, F&& body) {
  parallel_for(rows, std::max<std::int64_t>(1, kTaskElements / std::max<std::int64_t>(1, row_elements)),
               body);
}

// A task's part of one of several tensors.
struct Part {
  std::size_t tensor;
  std::int64_t begin, end;
};

// The tasks of parallel_elements for each of `tensors`, so that they can be one region; numel(tensor) is the
// number of its elements.
template <class Tensors, class Numel>
std::vector<Part> parts_of(const Tensors& tensors, Numel numel) {
  std::vector<Part> parts;
  for (std::size_t t = 0; t < tensors.size(); ++t)
    for (std::int64_t n = numel(tensors[t]), begin = 0; begin < n; begin += kTaskElements)
      parts.push_back({t, begin, std::min(n, begin + kTaskElements)});
  return parts;
}

// task(begin, end) -> R over [0, n) elements: one partial result per task, in the order of the tasks.
template <class R, class F>
std::vector<R> partial_results(std::int64_t n, F&& task) {
  static_assert(!std::is_same_v<R, bool>, "tasks would write to the same bytes of a vector<bool>");
  std::vector<R> results((n + kTaskElements - 1) / kTaskElements);
  parallel_elements(
      n, [&](std::int64_t begin, std::int64_t end) { results[begin / kTaskElements] = task(begin, end); });
  return results;
}

}  // namespace filigree::cpu
