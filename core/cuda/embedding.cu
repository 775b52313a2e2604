// Rows of a table by id, and the sums of gradients that go back to them.
//
// Backward sorts the positions by id (stably), so that an id's positions are neighbours, and cuts the sorted
// list into runs of equal length, a block each: few frequent ids (bytes) and many rare ones (words) take the
// same time. Where an id's positions lie in several runs, each leaves a partial sum, and these are added in
// order.
#include <algorithm>
#include <bit>
#include <cub/device/device_radix_sort.cuh>
#include <limits>

#include "core/cuda/elementwise.cuh"

namespace filigree::cuda {
namespace {

// An id outside the table gives a row of NaN.
template <class T, class Y>
struct GatherRows {
  static constexpr int kSize = std::max(kPackSize<T>, kPackSize<Y>);
  const T* table;
  const std::int32_t* ids;
  Y* y;
  std::int64_t vocab, width;
  bool wide;

  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t id = ids[row];
    Pack<Y, kSize> out;
    if (0 <= id && id < vocab) {
      const auto in = load_pack<T, kSize>(table + id * width + column, width - column, wide);
#pragma unroll
      for (int i = 0; i < kSize; ++i) out.set(i, in[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kSize; ++i) out.set(i, std::numeric_limits<compute_t<Y>>::quiet_NaN());
    }
    store_pack(y + row * width + column, out, width - column, wide);
  }
};

// Calls f with zeros of the table's and of the rows' type: equal, or bf16 beside an f32 table.
template <class F>
void with_table_and_rows(DType table, DType rows, F&& f) {
  if (table == rows) return with_stored(table, [&]<class T>(T) { f(T{}, T{}); });
  check(table == DType::f32 && rows == DType::bf16, "an embedding's dtypes");
  f(float{}, bfloat16{});
}

// --- sorted positions ---

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    make_keys_kernel(int n, const std::int32_t* ids, std::uint32_t vocab, std::uint32_t* keys,
                     int* positions) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  keys[i] = std::min(static_cast<std::uint32_t>(ids[i]), vocab);  // ids outside the table go last
  positions[i] = static_cast<int>(i);
}

// begins[v]: the first of the sorted keys that is not below v; v = 0, ..., vocab.
__global__ void __launch_bounds__(kThreads)
    find_begins_kernel(int n, const std::uint32_t* keys, std::uint32_t vocab, int* begins) {
  const std::int64_t v = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (v > vocab) return;
  int low = 0, high = n;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (keys[middle] < v)
      low = middle + 1;
    else
      high = middle;
  }
  begins[v] = low;
}

struct SortedPositions {
  Tensor keys, positions;  // u32, int [n]: `positions` ascend where keys are equal
  Tensor begins;           // int [vocab + 1]: an id's range of them
};

SortedPositions sort_positions(Context context, const Tensor& ids, std::int64_t vocab) {
  check(ids.numel() <= std::numeric_limits<int>::max(), "embedding_backward: more than 2^31 positions");
  const auto n = static_cast<int>(ids.numel());
  const auto v = static_cast<std::uint32_t>(vocab);
  Tensor keys = workspace<std::uint32_t>(context, n), positions = workspace<int>(context, n);
  SortedPositions sorted{workspace<std::uint32_t>(context, n), workspace<int>(context, n),
                         workspace<int>(context, vocab + 1)};
  const auto blocks = [](std::int64_t count) { return static_cast<unsigned>(divide_up(count, kThreads)); };
  make_keys_kernel<<<blocks(n), kThreads, 0, stream(context)>>>(
      n, data<std::int32_t>(ids), v, data<std::uint32_t>(keys), data<int>(positions));
  check_launch();
  std::size_t room_bytes = 0;
  const auto sort = [&](void* room) {
    check_cuda(cub::DeviceRadixSort::SortPairs(
        room, room_bytes, data<std::uint32_t>(keys), data<std::uint32_t>(sorted.keys), data<int>(positions),
        data<int>(sorted.positions), n, 0, std::bit_width(v), stream(context)));
  };
  sort(nullptr);  // says how much room it needs
  Tensor room = workspace<char>(context, static_cast<std::int64_t>(room_bytes));
  sort(room.raw_data());
  find_begins_kernel<<<blocks(vocab + 1), kThreads, 0, stream(context)>>>(n, data<std::uint32_t>(sorted.keys),
                                                                          v, data<int>(sorted.begins));
  check_launch();
  return sorted;
}

// --- sums ---

constexpr int kRun = 64;  // sorted positions per block
constexpr int kRunThreads = 128;

// T: of dy, D: of dtable.
template <class T, class D>
struct ScatterSums {
  using Acc = compute_t<T>;
  int n;
  std::int64_t vocab, width;
  bool wide;
  const std::uint32_t* keys;
  const int *positions, *begins;
  const T* dy;
  D* dtable;
  Acc* partial;  // [runs, 2, width]: 0 for the id that a run begins with, 1 for another
};

// A thread sums a pack of columns. The sum of positions [from, to) of a run, all of one id, goes to dtable if
// the id has no others, else to `partial`.
template <class T, class D>
__global__ void __launch_bounds__(kRunThreads) sum_runs_kernel(ScatterSums<T, D> a) {
  using Acc = compute_t<T>;
  constexpr int kSize = kPackSize<T>, kUnroll = 8;
  __shared__ std::uint32_t keys[kRun];
  __shared__ int positions[kRun];
  const std::int64_t run = blockIdx.x, begin = run * kRun;
  const std::int64_t end = std::min<std::int64_t>(a.n, begin + kRun);
  const int count = static_cast<int>(end - begin);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kRunThreads) {
    keys[i] = a.keys[begin + i];
    positions[i] = a.positions[begin + i];
  }
  __syncthreads();
  const std::int64_t column = (std::int64_t{blockIdx.y} * kRunThreads + threadIdx.x) * kSize;
  const std::int64_t columns = a.width - column;
  if (columns <= 0) return;
  const bool continues = begin > 0 && a.keys[begin - 1] == keys[0];       // the run before
  const bool is_continued = end < a.n && a.keys[end] == keys[count - 1];  // in the next one

  const auto store = [&](int from, int to, const Pack<Acc, kSize>& sum) {
    const std::uint32_t id = keys[from];
    if (id >= a.vocab) return;
    const bool shared = (from == 0 && continues) || (to == count && is_continued);
    if (!shared) {
      Pack<D, kSize> rounded;
#pragma unroll
      for (int i = 0; i < kSize; ++i) rounded.set(i, sum[i]);
      store_pack(a.dtable + id * a.width + column, rounded, columns, a.wide);
    } else {
      store_pack(a.partial + (2 * run + (from > 0)) * a.width + column, sum, columns, a.wide);
    }
  };
  Pack<Acc, kSize> sum;
  int from = 0;
  for (int j = 0; j < count; j += kUnroll) {
    Pack<T> rows[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (j + u < count) rows[u] = load_pack(a.dy + positions[j + u] * a.width + column, columns, a.wide);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (j + u >= count) break;
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum.set(i, sum[i] + rows[u][i]);
      const int to = j + u + 1;
      if (to < count && keys[to] == keys[from]) continue;
      store(from, to, sum);
      sum = {};
      from = to;
    }
  }
}

// Does what sum_runs_kernel leaves to do for a row of dtable: zeros for an id that does not occur, the sum of
// its partial sums for one that several runs share.
template <class T, class D>
struct AddRuns {
  static constexpr int kSize = std::max(kPackSize<compute_t<T>>, kPackSize<D>), kUnroll = 4;
  ScatterSums<T, D> a;

  __device__ void operator()(std::int64_t id, std::int64_t column) const {
    using Acc = compute_t<T>;
    const int begin = a.begins[id], end = a.begins[id + 1];
    const std::int64_t first = begin / kRun, last = (end - 1) / kRun, columns = a.width - column;
    if (begin < end && first == last) return;
    Pack<Acc, kSize> sum;
    if (begin < end) {
      for (std::int64_t run = first; run <= last; run += kUnroll) {
        Pack<Acc, kSize> parts[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          const bool inside = run + u == first && begin % kRun > 0;  // the id is not the run's first
          const Acc* part = a.partial + (2 * (run + u) + inside) * a.width + column;
          if (run + u <= last) parts[u] = load_pack<Acc, kSize>(part, columns, a.wide);
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
#pragma unroll
          for (int i = 0; i < kSize; ++i) sum.set(i, sum[i] + parts[u][i]);
      }
    }
    Pack<D, kSize> rounded;
#pragma unroll
    for (int i = 0; i < kSize; ++i) rounded.set(i, sum[i]);
    store_pack(a.dtable + id * a.width + column, rounded, columns, a.wide);
  }
};

}  // namespace

void embedding_forward(Context context, const Tensor& table, const Tensor& ids, Tensor& y) {
  const std::int64_t vocab = table.dim(0), width = table.dim(1);
  with_table_and_rows(table.dtype(), y.dtype(), [&]<class T, class Y>(T, Y) {
    const T* rows = data<T>(table);
    Y* py = data<Y>(y);
    using Gather = GatherRows<T, Y>;
    for_row_packs<Gather::kSize>(
        context, ids.numel(), width,
        Gather{rows, data<std::int32_t>(ids), py, vocab, width, wide_rows(width, rows, py)});
  });
}

void embedding_backward(Context context, const Tensor& dy, const Tensor& ids, Tensor& dtable) {
  const std::int64_t n = ids.numel(), vocab = dtable.dim(0), width = dtable.dim(1);
  if (n == 0) return dtable.fill_zero();
  if (vocab == 0 || width == 0) return;
  SortedPositions sorted = sort_positions(context, ids, vocab);
  with_table_and_rows(dtable.dtype(), dy.dtype(), [&]<class D, class T>(D, T) {
    using Acc = compute_t<T>;
    const std::int64_t runs = divide_up(n, kRun);
    Tensor partial = workspace<Acc>(context, 2 * runs * width);
    const T* pdy = data<T>(dy);
    D* to = data<D>(dtable);
    const ScatterSums<T, D> a{static_cast<int>(n),
                              vocab,
                              width,
                              wide_rows(width, pdy, to),
                              data<std::uint32_t>(sorted.keys),
                              data<int>(sorted.positions),
                              data<int>(sorted.begins),
                              pdy,
                              to,
                              data<Acc>(partial)};
    const dim3 grid(static_cast<unsigned>(runs),
                    static_cast<unsigned>(divide_up(width, kRunThreads * kPackSize<T>)));
    sum_runs_kernel<<<grid, kRunThreads, 0, stream(context)>>>(a);
    check_launch();
    for_row_packs<AddRuns<T, D>::kSize>(context, vocab, width, AddRuns<T, D>{a});
  });
}

}  // namespace filigree::cuda
