#include "train/run/memory_plan.h"

#include <cmath>

#include "core/backend.h"
#include "core/build_info.h"
#include "train/config/device_choice.h"
#include "train/config/layouts.h"
#include "train/evaluate/evaluate.h"
#include "train/evaluate/length_scores.h"

namespace filigree {
namespace {

Batch meta_batch(const Config& config, Device device) {
  const std::int64_t b = config.train.micro_batch_size, n = config.data.seq_len;
  const auto ints = [=](const Shape& shape) { return Tensor::empty(shape, DType::i32, device); };
  Batch batch;
  batch.inputs = ints({b, n});
  batch.targets = config.model.type == ModelType::encoder_classifier ? ints({b}) : ints({b, n});
  batch.row_bounds = ints({b, n, 2});
  batch.token_bounds = ints({b, 2});
  batch.n_targets = batch.targets.numel();
  return batch;
}

// A run on the meta device.
class Rehearsal {
 public:
  Rehearsal(const Config& config, Device device, Transformer& model, Optimizer& optimizer)
      : config_(config),
        device_(device),
        model_(model),
        options_(options()),
        stepper_(model, optimizer, options_) {
    // On a GPU each micro batch has tensors there; on a CPU the loader makes one more ahead.
    const std::int64_t batches = config.train.accumulation() + !device.like_cuda();
    for (std::int64_t i = options_.micro_batches; i < batches; ++i)
      waiting_.push_back(meta_batch(config, device));
  }

  void step(std::int64_t number) {
    std::vector<Batch> batches;
    for (std::int64_t i = 0; i < options_.micro_batches; ++i)
      batches.push_back(meta_batch(config_, Device::meta()));
    stepper_.submit(std::move(batches), number, 0);
    stepper_.next(true);
  }

  void evaluate_once(const Dataset& data) {
    try {
      evaluate(model_, config_, data, 1, {}, [](const EvaluatedBatch&) {});
      evaluate_lengths(model_, config_, 1);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::data) throw;  // this batch has no targets, or the run will say what is wrong
    }
  }

 private:
  StepOptions options() const {
    StepOptions options;
    // From the third micro batch on the same happens again and again; the others only lie and wait.
    options.micro_batches = std::min<std::int64_t>(3, config_.train.accumulation());
    options.steps = config_.train.steps;
    options.graph = config_.cuda_graph && device_.like_cuda();
    return options;
  }

  const Config& config_;
  Device device_;
  Transformer& model_;
  StepOptions options_;
  Stepper stepper_;
  std::vector<Batch> waiting_;
};

}  // namespace

MemoryPlan plan_memory(const Config& config, const LayerPatternsPtr& patterns, const Dataset* validation) {
  const bool cuda = config.device == DeviceChoice::cuda;
  const Device device = cuda ? Device::meta_cuda() : Device::meta();
  Allocator& meta = allocator(device);
  meta.release_cached();
  meta.reset_peak();
  MemoryPlan plan;
  {
    // The model that the plan puts on the meta device must go with it: it has layouts of its own.
    Transformer model(config.model, 0, device, DType::f32, compute_dtype(config),
                      cuda ? layer_patterns(config) : patterns);
    plan.parameters = meta.statistics().in_use;
    Optimizer optimizer(config.train, model.parameters());
    plan.optimizer = meta.statistics().in_use - plan.parameters;
    Rehearsal run(config, device, model, optimizer);
    // A second micro batch meets the gradients of the first, a second step the allocator's cached blocks or
    // is captured as a graph; where patterns are learned it is one that learns, with everything on.
    const auto at_share = [&](double share) {
      const auto step = std::ceil(share * static_cast<double>(config.train.steps));
      return std::max<std::int64_t>(1, static_cast<std::int64_t>(step));
    };
    run.step(0);
    run.step(at_share(model.warmup()));
    if (validation) run.evaluate_once(*validation);
    // A hardened model's steps are captured as a graph, in memory beside what learning has cached.
    if (cuda && !model.patterns_are_static()) {
      for (int i = 0; i < 3; ++i) run.step(config.train.steps - 1);  // hardens; has run; is captured
      if (validation) run.evaluate_once(*validation);
    }
    plan.tensors = meta.statistics().peak_reserved;
  }
  meta.release_cached();
  allocator(Device::cpu()).release_cached();  // what the run's tensors would take over is not counted twice
  const std::int64_t largest = config.train.micro_batch_size * config.data.seq_len * 4 * config.model.dim;
  plan.process = plan.tensors + bytes_beside_tensors(device, largest) + (cuda ? 0 : resident_bytes());
  return plan;
}

}  // namespace filigree
