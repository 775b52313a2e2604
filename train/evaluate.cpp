#include "train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "train/step.h"

namespace filigree {
namespace {

std::int64_t count_right(const Tensor& logits, const Tensor& targets) {
  const std::int64_t classes = logits.dim(-1);
  std::int64_t right = 0;
  for (std::int64_t i = 0; i < targets.numel(); ++i) {
    const auto row = logits.values<float>().subspan(static_cast<std::size_t>(i * classes),
                                                    static_cast<std::size_t>(classes));
    right += std::ranges::max_element(row) - row.begin() == targets.data<std::int32_t>()[i];
  }
  return right;
}

}  // namespace

Task task_of(ModelType type) {
  switch (type) {
    case ModelType::decoder:
      return Task::causal_lm;
    case ModelType::encoder_mlm:
      return Task::masked_lm;
    case ModelType::encoder_classifier:
      return Task::classify;
  }
  check(false, "unknown model type");
  return Task::causal_lm;
}

LoaderOptions loader_options(const Config& config) {
  LoaderOptions options;
  options.task = task_of(config.model.type);
  options.batch_size = config.train.micro_batch_size;
  options.seq_len = config.data.seq_len;
  options.documents = config.data.documents;
  options.shuffle = config.data.shuffle;
  options.mask_probability = config.data.mask_probability;
  options.seed = static_cast<std::uint64_t>(config.seed);
  return options;
}

std::optional<Evaluation> evaluate(const Transformer& model, const Config& config,
                                   const std::vector<LayoutPtr>& layouts, const Dataset& data,
                                   std::int64_t max_batches, const std::function<bool()>& stop,
                                   const std::function<void(const EvaluatedBatch&)>& watch) {
  LoaderOptions options = loader_options(config);
  options.shuffle = false;
  options.single_pass = true;
  Loader loader(data, options);
  const NoGrad no_tape;
  const ForwardContext context{};
  const Tensor one = Tensor::full({1}, 1, DType::f64, model.device());  // losses are added, not averaged
  const bool classifier = config.model.type == ModelType::encoder_classifier;
  double sum = 0;
  std::int64_t right = 0, bytes = 0, batches = 0;
  Evaluation result;
  while (max_batches == 0 || batches < max_batches) {
    if (stop && stop()) return std::nullopt;
    const auto batch = loader.next();
    if (!batch) break;
    const ModelInput input = model_input(*batch, layouts, model.device());
    Tensor losses;
    sum += model.loss(input, batch->targets.to(model.device()), context, {one, watch ? &losses : nullptr})
               .value()
               .item();
    if (watch) watch({*batch, input, losses.to(Device::cpu())});
    if (classifier) {
      const Tensor logits = model.logits(input, context).value().to(DType::f32).to(Device::cpu());
      right += count_right(logits, batch->targets);
    }
    result.targets += batch->n_targets;
    bytes += batch->n_bytes;
    ++batches;
  }
  result.loss = sum / static_cast<double>(std::max<std::int64_t>(1, result.targets));
  if (!std::isfinite(result.loss))
    throw Error(ErrorKind::numeric, "the evaluation loss is not finite",
                "the weights are damaged or training diverged; go back to an earlier checkpoint");
  if (bytes > 0 && config.model.type == ModelType::decoder)
    result.bits_per_byte = sum / std::numbers::ln2 / static_cast<double>(bytes);
  if (classifier) result.accuracy = static_cast<double>(right) / static_cast<double>(result.targets);
  return result;
}

}  // namespace filigree
