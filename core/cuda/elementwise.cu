// In-place arithmetic and scans of gradients and parameters.
#include "core/cuda/chunk_table.cuh"
#include "core/cuda/runtime.h"
#include "core/cuda/scalar_sum.cuh"

namespace filigree::cuda {
namespace {

struct Square {
  template <class T>
  __device__ double operator()(T x) const {
    const auto wide = static_cast<double>(x);
    return wide * wide;
  }
};

struct IsNotFinite {
  template <class T>
  __device__ double operator()(T x) const {
    return isfinite(x) ? 0 : 1;
  }
};

struct Store {
  double* y;
  __device__ void operator()(double sum) const { *y = sum; }
};

template <class T>
struct Entry {
  const T* x;
  std::int64_t n;
};
template <class T>
using Table = ChunkTable<Entry<T>, 1000>;

// partial[chunk] = its sum of squares
template <class T>
__global__ void __launch_bounds__(kChunkThreads)
    sum_of_squares_kernel(const __grid_constant__ Table<T> table, double* partial) {
  constexpr int kSize = kPackSize<T>;
  const int i = table.find(static_cast<int>(blockIdx.x));
  const Entry<T>& t = table.entries[i];
  const std::int64_t begin = (static_cast<int>(blockIdx.x) - table.first_chunk[i]) * kChunk;
  const std::int64_t end = std::min(t.n, begin + kChunk);
  const bool wide = reinterpret_cast<std::uintptr_t>(t.x) % 16 == 0;
  const double sum =
      team_sum(sum_of_terms(t.x, begin + threadIdx.x * kSize, end, kChunkThreads * kSize, wide, Square{}));
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

}  // namespace

void add_in_place(Context context, const Tensor& x, Tensor& into) {
  add(context, into, x, into);
}

void scale_in_place(Context context, double factor, Tensor& x) {
  scale(context, factor, x, x);
}

void sum_of_squares(Context context, std::span<const Tensor> tensors, Tensor& result) {
  std::int64_t chunks = 0, done = 0;
  for (const Tensor& x : tensors) chunks += divide_up(x.numel(), kChunk);
  Tensor partial = workspace<double>(context, chunks);
  const auto add_chunks_of = [&]<class T>(T, DType type) {
    for_chunk_tables<Table<T>>(
        tensors, [=](const Tensor& x) { return x.dtype() == type; },
        [](const Tensor& x) {
          return Entry<T>{data<T>(x), x.numel()};
        },
        [&](const Table<T>& table) {
          sum_of_squares_kernel<T>
              <<<static_cast<unsigned>(table.chunks), kChunkThreads, 0, stream(context)>>>(
                  table, data<double>(partial) + done);
          check_launch();
          done += table.chunks;
        });
  };
  add_chunks_of(float{}, DType::f32);
  add_chunks_of(double{}, DType::f64);
  add_chunks_of(bfloat16{}, DType::bf16);
  finish_sum(context, chunks, data<double>(partial), Store{data<double>(result)});
}

void all_finite(Context context, const Tensor& x, bool& result) {
  Tensor bad = Tensor::empty({1}, DType::f64, Device::cuda(context.device));
  with_stored(x.dtype(), [&]<class T>(T) {
    scalar_sum(context, x.numel(), data<T>(x), IsNotFinite{}, Store{data<double>(bad)});
  });
  double count = 0;
  copy_to_host(context.device, &count, data<double>(bad), sizeof count);
  result = count == 0;
}

}  // namespace filigree::cuda
