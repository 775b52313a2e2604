// Rows of a table by id, and the sums of gradients that go back to them.
#include <algorithm>
#include <utility>
#include <vector>

#include "core/cpu/partition.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {

void embedding_forward(Context, const Tensor& table, const Tensor& ids, Tensor& y) {
  const std::int64_t n_ids = ids.numel(), vocab = table.dim(0), width = table.dim(1);
  const std::int32_t* id = ids.data<std::int32_t>();
  for (std::int64_t i = 0; i < n_ids; ++i)
    if (id[i] < 0 || id[i] >= vocab)
      fail(ErrorKind::data, "[embedding] id {} at position {}; the table has rows 0 to {}", id[i], i,
           vocab - 1);
  with_float(table.dtype(), [&]<class T>(T) {
    const T* rows = table.data<T>();
    T* out = y.data<T>();
    parallel_rows(n_ids, width, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) std::copy_n(rows + id[i] * width, width, out + i * width);
    });
  });
}

// Positions are grouped by id (a stable counting sort), so that each element of dtable is written by one
// task, which adds in the order of the positions. Columns are cut too: a byte vocabulary has few, unequal
// groups.
void embedding_backward(Context, const Tensor& dy, const Tensor& ids, Tensor& dtable) {
  const std::int64_t n_ids = ids.numel(), vocab = dtable.dim(0), width = dtable.dim(1);
  const std::int32_t* id = ids.data<std::int32_t>();
  std::vector<std::int64_t> group_end(vocab, 0), positions(static_cast<std::size_t>(n_ids));
  for (std::int64_t i = 0; i < n_ids; ++i) ++group_end[id[i]];
  std::int64_t total = 0;
  for (auto& end : group_end) end = std::exchange(total, total + end);  // for now where the group begins
  for (std::int64_t i = 0; i < n_ids; ++i) positions[group_end[id[i]]++] = i;

  with_float(dy.dtype(), [&]<class T>(T) {
    constexpr std::int64_t kColumns = 128, kRows = 64;
    const std::int64_t strips = (width + kColumns - 1) / kColumns, blocks = (vocab + kRows - 1) / kRows;
    const T* from = dy.data<T>();
    T* to = dtable.data<T>();
    parallel_tasks(strips * blocks, [&](std::int64_t task) {
      const std::int64_t first = task / strips * kRows, column = task % strips * kColumns;
      const std::int64_t columns = std::min(kColumns, width - column);
      for (std::int64_t v = first; v < std::min(vocab, first + kRows); ++v) {
        T* row = to + v * width + column;
        std::fill_n(row, columns, T(0));
        for (std::int64_t g = v ? group_end[v - 1] : 0; g < group_end[v]; ++g) {
          const T* gradient = from + positions[g] * width + column;
#pragma omp simd
          for (std::int64_t c = 0; c < columns; ++c) row[c] += gradient[c];
        }
      }
    });
  });
}

}  // namespace filigree::cpu
