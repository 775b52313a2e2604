// Optimizer steps, one pass over memory and one launch each (for up to 500 tensors).
#include <algorithm>
#include <cmath>

#include "core/cuda/chunk_table.cuh"
#include "core/cuda/math.cuh"
#include "core/cuda/pack.cuh"
#include "core/optimizers/step.h"

namespace filigree::cuda {
namespace {

template <class T>
struct Entry {
  const T* grad;
  T* w;
  T* state[kMostState];
  std::int64_t n;
  double lr_factor, weight_decay;
};

// A kernel may have 32764 bytes of parameters.
template <class T>
using Table = ChunkTable<Entry<T>, 500>;
static_assert(sizeof(Table<double>) <= 32000);

// StepControl's numbers, where they lie on the device.
struct Control {
  const double *rates, *sum_of_squares;
  const std::uint32_t* halted;
  double clip;

  explicit Control(const StepControl& c)
      : rates(data<double>(c.rates)),
        sum_of_squares(data<double>(c.sum_of_squares)),
        halted(data<std::uint32_t>(c.halted)),
        clip(c.clip) {}

  // Gradients are multiplied by this, so that their norm is at most clip.
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
    wide = (address(t.grad) | address(t.w) | address(t.state[0]) | address(t.state[1])) % 16 == 0;
  }
};

template <class T, class Rule>
__global__ void __launch_bounds__(kChunkThreads)
    step_kernel(const __grid_constant__ Table<T> table, Control control, Rule rule) {
  constexpr int kSize = kPackSize<T>, kStates = static_cast<int>(Rule::kState.size());
  if (*control.halted) return;
  const Chunk<T> chunk(table, table.find(static_cast<int>(blockIdx.x)));
  const Entry<T>& t = chunk.t;
  const auto update =
      rule.template update<T>(Math{}, control.rates, control.clip_factor(), t.lr_factor, t.weight_decay);
  for (std::int64_t i = chunk.first; i < chunk.end; i += kChunkThreads * kSize) {
    const std::int64_t count = chunk.end - i;
    const Pack<T> grad = load_pack(t.grad + i, count, chunk.wide);
    Pack<T> w = load_pack<T>(t.w + i, count, chunk.wide), state[kMostState];
#pragma unroll
    for (int s = 0; s < kStates; ++s) state[s] = load_pack<T>(t.state[s] + i, count, chunk.wide);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      T value = w[e], kept[kMostState] = {};
#pragma unroll
      for (int s = 0; s < kStates; ++s) kept[s] = state[s][e];
      if constexpr (kStates == 0) update(Math{}, grad[e], value);
      if constexpr (kStates == 1) update(Math{}, grad[e], value, kept[0]);
      if constexpr (kStates == 2) update(Math{}, grad[e], value, kept[0], kept[1]);
      w.set(e, value);
#pragma unroll
      for (int s = 0; s < kStates; ++s) state[s].set(e, kept[s]);
    }
    store_pack(t.w + i, w, count, chunk.wide);
#pragma unroll
    for (int s = 0; s < kStates; ++s) store_pack(t.state[s] + i, state[s], count, chunk.wide);
  }
}

template <class T>
__global__ void halt_kernel(const T* loss, const double* sum_of_squares, std::uint32_t* halted) {
  if (!isfinite(*loss) || !isfinite(*sum_of_squares)) *halted = 1;
}

}  // namespace

void optimizer_step(Context context, const OptimizerRule& rule, const StepControl& step,
                    std::span<const OptimizerTensors> tensors) {
  const Control control(step);
  const auto tensors_of = [&]<class T>(T, DType type, const auto& r) {
    for_chunk_tables<Table<T>>(
        tensors, [=](const OptimizerTensors& t) { return t.w.dtype() == type; },
        [](const OptimizerTensors& t) {
          Tensor w = t.w;
          std::array<Tensor, kMostState> state = t.state;
          return Entry<T>{
              data<T>(t.grad), data<T>(w),  {data_or_null<T>(state[0]), data_or_null<T>(state[1])},
              w.numel(),       t.lr_factor, t.weight_decay};
        },
        [&](const Table<T>& table) {
          step_kernel<T>
              <<<static_cast<unsigned>(table.chunks), kChunkThreads, 0, stream(context)>>>(table, control, r);
          check_launch();
        });
  };
  std::visit(
      [&](const auto& r) {
        tensors_of(float{}, DType::f32, r);
        tensors_of(double{}, DType::f64, r);
      },
      rule);
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
