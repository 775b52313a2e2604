// Sums down the columns of matrices: gradients of biases and of other parameters that all rows share.
//
// In two stages, cut by the shape alone, so that the result never depends on the order in which blocks run: a
// block sums its share of the rows of a strip of columns, then the blocks' sums are added. In a block,
// `lanes` threads lie across the columns, a pack each, and the others take further rows; a tree adds these
// up.
#pragma once

#include <algorithm>

#include "core/cuda/pack.cuh"

namespace filigree::cuda {

inline constexpr int kColumnThreads = 256;
inline constexpr int kColumnBlocks = 4;  // per multiprocessor

struct ColumnSumShape {
  std::int64_t batches, rows, width;  // of the matrices
  std::int64_t column_blocks, splits, split_rows;
  int lanes;  // a power of two
};

// The rows that are summed. `load` fetches a pack of one row, so that kUnroll are under way before the first is added.
template <class T>
struct MatrixRows {
  static constexpr int kSize = kPackSize<T>, kUnroll = 4;
  using Acc = compute_t<T>;
  using Loaded = Pack<T>;

  const T* x;  // [batches, rows, width]
  std::int64_t rows, width;
  bool wide;

  __device__ Loaded load(std::int64_t batch, std::int64_t row, std::int64_t column) const {
    return load_pack(x + (batch * rows + row) * width + column, width - column, wide);
  }
  __device__ void add(const Loaded& x_pack, Acc (&sum)[kSize]) const {
#pragma unroll
    for (int i = 0; i < kSize; ++i) sum[i] += x_pack[i];
  }
};

// Where a sum goes.
template <class T>
struct StoreSum {
  T* y;  // [slices, width]
  std::int64_t width;
  __device__ void operator()(std::int64_t slice, std::int64_t column, compute_t<T> sum) const {
    y[slice * width + column] = narrow<T>(sum);
  }
};

// The sums of the threads of one column, tree-wise, to the first of them.
template <class Acc, int kSize>
__device__ inline void add_row_lanes(Acc (&sum)[kSize], int lanes) {
  __shared__ Acc shared[kSize * kColumnThreads];
  const int row_lane = static_cast<int>(threadIdx.x) / lanes;
  for (int half = kColumnThreads / lanes / 2; half > 0; half /= 2) {
    if (row_lane >= half && row_lane < 2 * half) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) shared[i * kColumnThreads + threadIdx.x - half * lanes] = sum[i];
    }
    __syncthreads();
    if (row_lane < half) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum[i] += shared[i * kColumnThreads + threadIdx.x];
    }
    __syncthreads();
  }
}

// A slice is one batch's split: out(batch * splits + split, column, sum).
template <class Terms, class Out>
__global__ void __launch_bounds__(kColumnThreads, kColumnBlocks)
    column_sum_kernel(ColumnSumShape s, Terms terms, Out out) {
  constexpr int kSize = Terms::kSize, kUnroll = Terms::kUnroll;
  using Acc = typename Terms::Acc;
  const std::int64_t column_block = blockIdx.x % s.column_blocks, slice = blockIdx.x / s.column_blocks;
  const std::int64_t batch = slice / s.splits, begin = slice % s.splits * s.split_rows;
  const std::int64_t end = std::min(s.rows, begin + s.split_rows);
  const int lane = static_cast<int>(threadIdx.x) % s.lanes,
            row_lane = static_cast<int>(threadIdx.x) / s.lanes;
  const int row_lanes = kColumnThreads / s.lanes;
  const std::int64_t column = (column_block * s.lanes + lane) * kSize;

  Acc sum[kSize] = {};
  if (column < s.width) {
    for (std::int64_t row = begin + row_lane; row < end; row += kUnroll * row_lanes) {
      typename Terms::Loaded loaded[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (row + u * row_lanes < end) loaded[u] = terms.load(batch, row + u * row_lanes, column);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (row + u * row_lanes < end) terms.add(loaded[u], sum);
    }
  }
  add_row_lanes(sum, s.lanes);
  if (row_lane > 0) return;
#pragma unroll
  for (int i = 0; i < kSize; ++i)
    if (column + i < s.width) out(slice, column + i, sum[i]);
}

template <class Terms, class Out>
void launch_column_sum(Context context, const ColumnSumShape& s, Terms terms, Out out) {
  const auto blocks = static_cast<unsigned>(s.column_blocks * s.splits * s.batches);
  column_sum_kernel<<<blocks, kColumnThreads, 0, stream(context)>>>(s, terms, out);
  check_launch();
}

// The number of lanes that a strip of columns is spread over, at most `most`.
inline int column_lanes(std::int64_t width, int pack, int most) {
  int lanes = 1;
  while (lanes < most && lanes * pack < width) lanes *= 2;
  return lanes;
}

// The second stage: out(batch, column, sum over the splits of partial [batches, splits, width]).
template <class Acc, class Out>
void add_partial_sums(Context context, const Acc* partial, std::int64_t batches, std::int64_t splits,
                      std::int64_t width, Out out) {
  // Few lanes, because there are more rows to share than columns.
  const int lanes = column_lanes(width, kPackSize<Acc>, 8);
  const ColumnSumShape shape{batches, splits, width, divide_up(width, lanes * kPackSize<Acc>),
                             1,       splits, lanes};
  launch_column_sum(context, shape, MatrixRows<Acc>{partial, splits, width, wide_rows(width, partial)}, out);
}

// out(batch, column, sum over the rows of terms).
template <class Terms, class Out>
void sum_columns(Context context, std::int64_t batches, std::int64_t rows, std::int64_t width, Terms terms,
                 Out out) {
  constexpr std::int64_t kBlocks = 132 * kColumnBlocks;  // an H100 has 132 multiprocessors
  constexpr std::int64_t kThreadRows = 4;                // at least, where there are splits
  using Acc = typename Terms::Acc;
  if (batches == 0 || width == 0) return;
  const int lanes = column_lanes(width, Terms::kSize, 32);
  const std::int64_t column_blocks = divide_up(width, lanes * Terms::kSize);
  const std::int64_t most_splits = std::max<std::int64_t>(1, rows / (kColumnThreads / lanes * kThreadRows));
  const std::int64_t wanted = std::clamp<std::int64_t>(kBlocks / (column_blocks * batches), 1, most_splits);
  const std::int64_t split_rows = std::max<std::int64_t>(1, divide_up(rows, wanted));
  const std::int64_t splits = std::max<std::int64_t>(1, divide_up(rows, split_rows));
  const ColumnSumShape shape{batches, rows, width, column_blocks, splits, split_rows, lanes};
  if (splits == 1) return launch_column_sum(context, shape, terms, out);
  Tensor partial = workspace<Acc>(context, batches * splits * width);
  launch_column_sum(context, shape, terms, StoreSum<Acc>{data<Acc>(partial), width});
  add_partial_sums<Acc>(context, data<Acc>(partial), batches, splits, width, out);
}

}  // namespace filigree::cuda
