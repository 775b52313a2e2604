#include "train/memory_plan.h"

#include <cmath>

#include "core/build_info.h"
#include "core/cpu/gemm.h"
#include "core/parallel.h"
#include "train/device_choice.h"
#include "train/layouts.h"

namespace filigree {
namespace {

// What is not in tensors: buffers of the attention kernels, what first uses of oneDNN and HDF5 map, holes in
// the heap.
std::int64_t bytes_beside(const Config& config, const ModelConfig& model) {
  constexpr std::int64_t kOnce = std::int64_t{10} << 20, kPerThread = std::int64_t{1} << 19;
  const std::int64_t largest = config.train.micro_batch_size * config.data.seq_len * 4 * model.dim;
  return kOnce + n_threads() * (kPerThread + cpu::gemm_heap_holes(largest));
}

Batch meta_batch(const Config& config, const ModelConfig& model) {
  const std::int64_t b = config.train.micro_batch_size, n = config.data.seq_len;
  const auto ints = [](const Shape& shape) { return Tensor::empty(shape, DType::i32, Device::meta()); };
  Batch batch;
  batch.inputs = ints({b, n});
  batch.targets = model.type == ModelType::encoder_classifier ? ints({b}) : ints({b, n});
  batch.row_bounds = ints({b, n, 2});
  batch.token_bounds = ints({b, 2});
  batch.n_targets = batch.targets.numel();
  return batch;
}

}  // namespace

MemoryPlan plan_memory(const Config& config, const ModelConfig& model_config,
                       const std::vector<LayoutPtr>& layouts) {
  const bool cuda = config.device == DeviceChoice::cuda;
  const Device device = cuda ? Device::meta_cuda() : Device::meta();
  Allocator& meta = allocator(device);
  meta.release_cached();
  meta.reset_peak();
  MemoryPlan plan;
  {
    Transformer model(model_config, 0, device, DType::f32, compute_dtype(config), layer_patterns(config));
    plan.parameters = meta.statistics().in_use;
    Optimizer optimizer(config.train, model.parameters());
    plan.optimizer = meta.statistics().in_use - plan.parameters;
    // From the third micro batch on the same happens again and again; the others only lie and wait.
    StepOptions options;
    options.micro_batches = std::min<std::int64_t>(3, config.train.accumulation());
    options.steps = config.train.steps;
    Stepper stepper(model, optimizer, layouts, options);
    std::vector<Batch> waiting;  // the loader makes one more ahead
    for (std::int64_t i = options.micro_batches; i < config.train.accumulation() + 1; ++i)
      waiting.push_back(meta_batch(config, model_config));
    // A second micro batch meets the gradients of the first, a second step the allocator's cached blocks;
    // where patterns are learned it is one that learns, with everything on.
    const auto learning =
        static_cast<std::int64_t>(std::ceil(model.warmup() * static_cast<double>(config.train.steps)));
    for (const std::int64_t step : {std::int64_t{0}, std::max<std::int64_t>(1, learning)}) {
      std::vector<Batch> batches;
      for (std::int64_t i = 0; i < options.micro_batches; ++i)
        batches.push_back(meta_batch(config, model_config));
      stepper.submit(std::move(batches), step, 0);
      stepper.next(true);
    }
    plan.tensors = meta.statistics().peak_reserved;
  }
  meta.release_cached();
  allocator(Device::cpu()).release_cached();  // what the run's tensors would take over is not counted twice
  plan.process = cuda ? plan.tensors : resident_bytes() + plan.tensors + bytes_beside(config, model_config);
  return plan;
}

}  // namespace filigree
