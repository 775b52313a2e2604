#include "train/evaluate/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/ops.h"

namespace filigree {
namespace {

// Says of each row if its likeliest class is the right one.
std::vector<bool> right_answers(const Tensor& logits, const Tensor& targets) {
  const Tensor known = logits.to(DType::f32).to(Device::cpu());
  const auto classes = static_cast<std::size_t>(known.dim(-1));
  std::vector<bool> right;
  for (const std::int32_t target : targets.values<std::int32_t>()) {
    const auto row = known.values<float>().subspan(right.size() * classes, classes);
    right.push_back(std::ranges::max_element(row) - row.begin() == target);
  }
  return right;
}

std::vector<GroupScore> no_scores(const Dataset& data) {
  std::vector<GroupScore> scores;
  if (data.generated())
    for (const std::string& name : data.generated()->task().group_names()) scores.push_back({name});
  return scores;
}

// Adds what a decoder gets right of a task's answers and returns its summed loss. Only the logits of the
// targets are made, which may be few.
double score_answers(const Transformer& model, const ModelInput& input, const Batch& batch,
                     const GeneratedTask& task, std::int64_t& n_right, std::vector<GroupScore>& groups) {
  const auto all = batch.targets.values<std::int32_t>(), tokens = batch.inputs.values<std::int32_t>();
  std::vector<std::int32_t> rows, asked;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i] == ops::kIgnoreIndex) continue;
    rows.push_back(static_cast<std::int32_t>(i));
    asked.push_back(all[i]);
  }
  if (rows.empty()) return 0;
  const Tensor wanted = Tensor::of({std::ssize(asked)}, asked);
  const Var logits = model.logits_of_rows(input, Tensor::of({std::ssize(rows)}, rows), {});
  const std::vector<bool> right = right_answers(logits.value(), wanted);
  n_right += std::ranges::count(right, true);
  for (std::size_t i = 0; i < rows.size() && !groups.empty(); ++i) {
    const auto at = static_cast<std::size_t>(rows[i]);
    const std::int32_t sample = batch.groups[at / static_cast<std::size_t>(batch.inputs.dim(1))];
    GroupScore& group = groups[task.target_group(sample, tokens[at])];
    ++group.targets;
    group.right += right[i];
  }
  const double loss = ops::cross_entropy(logits, wanted.to(model.device())).value().item();
  return loss * static_cast<double>(rows.size());
}

LoaderOptions evaluation_options(const Config& config) {
  LoaderOptions options = loader_options(config);
  options.shuffle = false;
  options.single_pass = true;
  return options;
}

[[noreturn]] void fail_without_targets(const Config& config, const Dataset& data, std::int64_t tokens) {
  if (config.model.type == ModelType::encoder_mlm)
    throw Error(
        ErrorKind::data,
        fmt::format("there is nothing to evaluate on: none of the {} tokens of the text is masked, with "
                    "a data.mask_probability of {}",
                    tokens, config.data.mask_probability),
        "take more text, or a higher data.mask_probability; training can do without: "
        "data.val_fraction=0");
  if (data.generated())
    throw Error(
        ErrorKind::data,
        fmt::format("there is nothing to evaluate on: the samples of the task '{}' ask for nothing, in "
                    "{} tokens of {} at a time",
                    data.generated()->task().name(), tokens, config.data.seq_len),
        "take more samples, or make the task ask more often");
  throw Error(
      ErrorKind::data,
      fmt::format("there is nothing to evaluate on: none of the {} tokens of the text is predicted by "
                  "another one of its document",
                  tokens),
      "take more text; training can do without: data.val_fraction=0");
}

}  // namespace

ModelInput model_input(const Batch& batch, Device device) {
  return {batch.inputs.to(device), batch.row_bounds.to(device), batch.token_bounds.to(device)};
}

LoaderOptions loader_options(const Config& config) {
  LoaderOptions options;
  options.type = config.model.type;
  options.batch_size = config.train.micro_batch_size;
  options.seq_len = config.data.seq_len;
  options.documents = config.data.documents;
  options.shuffle = config.data.shuffle;
  options.mask_probability = config.data.mask_probability;
  options.seed = static_cast<std::uint64_t>(config.seed);
  return options;
}

std::int64_t evaluated_batches(const Config& config, const Dataset& data, std::int64_t max_batches) {
  LoaderOptions options = loader_options(config);
  options.prefetch = false;
  options.single_pass = true;
  const std::int64_t samples = Loader(data, options).samples_per_epoch();
  const std::int64_t all = (samples + options.batch_size - 1) / options.batch_size;
  return max_batches > 0 ? std::min(all, max_batches) : all;
}

std::optional<Evaluation> evaluate(const Transformer& model, const Config& config, const Dataset& data,
                                   std::int64_t max_batches, const std::function<bool()>& stop,
                                   const std::function<void(const EvaluatedBatch&)>& watch) {
  Loader loader(data, evaluation_options(config));
  const NoGrad no_tape;
  const ForwardContext context{};
  const Tensor one = Tensor::full({1}, 1, DType::f64, model.device());  // losses are added, not averaged
  const bool classifier = config.model.type == ModelType::encoder_classifier;
  const bool answers = data.generated() && !classifier;
  double sum = 0;
  std::int64_t right = 0, bytes = 0, tokens = 0, batches = 0;
  Evaluation result;
  result.groups = no_scores(data);
  while (max_batches == 0 || batches < max_batches) {
    if (stop && stop()) return std::nullopt;
    const auto batch = loader.next();
    if (!batch) break;
    const ModelInput input = model_input(*batch, model.device());
    if (answers) {
      sum += score_answers(model, input, *batch, data.generated()->task(), right, result.groups);
    }
    if (!answers || watch) {
      Tensor losses;
      const Var loss =
          model.loss(input, batch->targets.to(model.device()), context, {one, watch ? &losses : nullptr});
      if (!answers) sum += loss.value().item();
      if (watch) watch({*batch, input, losses.to(Device::cpu())});
    }
    if (classifier)
      right += std::ranges::count(right_answers(model.logits(input, context).value(), batch->targets), true);
    result.targets += batch->n_targets;
    bytes += batch->n_bytes;
    tokens += batch->n_tokens;
    ++batches;
  }
  if (result.targets == 0) fail_without_targets(config, data, tokens);
  result.loss = sum / static_cast<double>(result.targets);
  if (!std::isfinite(result.loss))
    throw Error(ErrorKind::numeric, "the evaluation loss is not finite",
                "the weights are damaged or training diverged; go back to an earlier checkpoint");
  if (bytes > 0 && config.model.type == ModelType::decoder)
    result.bits_per_byte = sum / std::numbers::ln2 / static_cast<double>(bytes);
  if (classifier || answers)
    result.accuracy = static_cast<double>(right) / static_cast<double>(result.targets);
  return result;
}

void require_targets(const Config& config, const Dataset& data, std::int64_t max_batches) {
  LoaderOptions options = evaluation_options(config);
  options.prefetch = false;
  Loader loader(data, options);
  std::int64_t tokens = 0;
  for (std::int64_t batches = 0; max_batches == 0 || batches < max_batches; ++batches) {
    const auto batch = loader.next();
    if (!batch) break;
    if (batch->n_targets > 0) return;
    tokens += batch->n_tokens;
  }
  fail_without_targets(config, data, tokens);
}

}  // namespace filigree
