// Optimizer steps, one pass over memory and one launch each (for up to 500 tensors).
#include <algorithm>
#include <cmath>

#include "core/cuda/chunk_table.cuh"
#include "core/cuda/pack.cuh"

namespace filigree::cuda {
namespace {

template <class T>
struct Entry {
  const T* grad;
  T *w, *m, *v;
  std::int64_t n;
  double lr_factor, weight_decay;
};

// A kernel may have 32764 bytes of parameters.
template <class T>
using Table = ChunkTable<Entry<T>, 500>;
static_assert(sizeof(Table<double>) <= 32000);

// What StepControl says, where it lies on the device.
struct Control {
  const double *rates, *sum_of_squares;
  const std::uint32_t* halted;
  double clip;

  explicit Control(const StepControl& c)
      : rates(data<double>(c.rates)),
        sum_of_squares(data<double>(c.sum_of_squares)),
        halted(data<std::uint32_t>(c.halted)),
        clip(c.clip) {}

  // What gradients are multiplied by so that their norm is at most clip.
  __device__ double clip_factor() const {
    const double norm = std::sqrt(*sum_of_squares);
    return clip > 0 && norm > clip ? clip / norm : 1;
  }
};

// A chunk of a tensor, and this thread's first pack of it.
template <class T>
struct Chunk {
  const Entry<T>& t;
  std::int64_t first, end;
  bool wide;

  __device__ Chunk(const Table<T>& table, int tensor) : t(table.entries[tensor]) {
    const std::int64_t chunk = static_cast<int>(blockIdx.x) - table.first_chunk[tensor];
    first = chunk * kChunk + threadIdx.x * kPackSize<T>;
    end = std::min(t.n, (chunk + 1) * kChunk);
    const auto address = [](const T* p) { return reinterpret_cast<std::uintptr_t>(p); };
    wide = (address(t.grad) | address(t.w) | address(t.m) | address(t.v)) % 16 == 0;
  }
};

struct AdamWNumbers {
  double beta1, beta2, eps;
};

template <class T>
__global__ void __launch_bounds__(kChunkThreads)
    adamw_kernel(const __grid_constant__ Table<T> table, Control control, AdamWNumbers h) {
  constexpr int kSize = kPackSize<T>;
  if (*control.halted) return;
  const Chunk<T> chunk(table, table.find(static_cast<int>(blockIdx.x)));
  const Entry<T>& t = chunk.t;
  const double lr = control.rates[0] * t.lr_factor;
  const T scale = static_cast<T>(control.clip_factor()), eps = static_cast<T>(h.eps);
  const T beta1 = static_cast<T>(h.beta1), beta2 = static_cast<T>(h.beta2);
  const T rest1 = static_cast<T>(1 - h.beta1), rest2 = static_cast<T>(1 - h.beta2);
  const T keep = static_cast<T>(1 - lr * t.weight_decay), rate = static_cast<T>(lr / control.rates[1]);
  const T root = static_cast<T>(1 / std::sqrt(control.rates[2]));
  for (std::int64_t i = chunk.first; i < chunk.end; i += kChunkThreads * kSize) {
    const std::int64_t count = chunk.end - i;
    const Pack<T> grad = load_pack(t.grad + i, count, chunk.wide);
    Pack<T> w = load_pack<T>(t.w + i, count, chunk.wide), m = load_pack<T>(t.m + i, count, chunk.wide),
            v = load_pack<T>(t.v + i, count, chunk.wide);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const T g = grad[e] * scale;
      m.set(e, beta1 * m[e] + rest1 * g);
      v.set(e, beta2 * v[e] + rest2 * (g * g));
      w.set(e, keep * w[e] - rate * m[e] / (std::sqrt(v[e]) * root + eps));
    }
    store_pack(t.w + i, w, count, chunk.wide);
    store_pack(t.m + i, m, count, chunk.wide);
    store_pack(t.v + i, v, count, chunk.wide);
  }
}

template <class T>
__global__ void __launch_bounds__(kChunkThreads)
    sgd_kernel(const __grid_constant__ Table<T> table, Control control, double momentum) {
  constexpr int kSize = kPackSize<T>;
  if (*control.halted) return;
  const Chunk<T> chunk(table, table.find(static_cast<int>(blockIdx.x)));
  const Entry<T>& t = chunk.t;
  const T scale = static_cast<T>(control.clip_factor()), decay = static_cast<T>(t.weight_decay);
  const T lr = static_cast<T>(control.rates[0] * t.lr_factor), mu = static_cast<T>(momentum);
  for (std::int64_t i = chunk.first; i < chunk.end; i += kChunkThreads * kSize) {
    const std::int64_t count = chunk.end - i;
    const Pack<T> grad = load_pack(t.grad + i, count, chunk.wide);
    Pack<T> w = load_pack<T>(t.w + i, count, chunk.wide), u;
    if (t.m) u = load_pack<T>(t.m + i, count, chunk.wide);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const T g = grad[e] * scale + decay * w[e];
      u.set(e, t.m ? mu * u[e] + g : g);
      w.set(e, w[e] - lr * u[e]);
    }
    store_pack(t.w + i, w, count, chunk.wide);
    if (t.m) store_pack(t.m + i, u, count, chunk.wide);
  }
}

// launch(table) of the tensors of each dtype.
template <class Launch>
void for_tables(std::span<const OptimizerTensors> tensors, Launch launch) {
  const auto of_type = [&]<class T>(T, DType type) {
    for_chunk_tables<Table<T>>(
        tensors, [=](const OptimizerTensors& t) { return t.w.dtype() == type; },
        [](const OptimizerTensors& t) {
          Tensor w = t.w, m = t.m, v = t.v;
          return Entry<T>{data<T>(t.grad), data<T>(w),  data_or_null<T>(m), data_or_null<T>(v),
                          w.numel(),       t.lr_factor, t.weight_decay};
        },
        launch);
  };
  of_type(float{}, DType::f32);
  of_type(double{}, DType::f64);
}

template <class T>
__global__ void halt_kernel(const T* loss, const double* sum_of_squares, std::uint32_t* halted) {
  if (!isfinite(*loss) || !isfinite(*sum_of_squares)) *halted = 1;
}

}  // namespace

void adamw_step(Context context, const AdamWStep& step, std::span<const OptimizerTensors> tensors) {
  const Control control(step.control);
  const AdamWNumbers numbers{step.beta1, step.beta2, step.eps};
  for_tables(tensors, [&]<class T>(const ChunkTable<Entry<T>, 500>& table) {
    adamw_kernel<T>
        <<<static_cast<unsigned>(table.chunks), kChunkThreads, 0, stream(context)>>>(table, control, numbers);
    check_launch();
  });
}

void sgd_step(Context context, const SgdStep& step, std::span<const OptimizerTensors> tensors) {
  const Control control(step.control);
  for_tables(tensors, [&]<class T>(const ChunkTable<Entry<T>, 500>& table) {
    sgd_kernel<T><<<static_cast<unsigned>(table.chunks), kChunkThreads, 0, stream(context)>>>(table, control,
                                                                                              step.momentum);
    check_launch();
  });
}

void halt_if_not_finite(Context context, const Tensor& loss, const Tensor& sum_of_squares, Tensor& halted) {
  with_stored(loss.dtype(), [&]<class T>(T) {
    using Acc = compute_t<T>;
    halt_kernel<<<1, 1, 0, stream(context)>>>(data<Acc>(loss), data<double>(sum_of_squares),
                                              data<std::uint32_t>(halted));
    check_launch();
  });
}

}  // namespace filigree::cuda
