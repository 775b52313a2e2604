// The loss of a model on a dataset, in the dataset's own order.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "data/loader.h"
#include "layers/transformer.h"
#include "train/config/config.h"

namespace filigree {

// Accuracy on some of a generated task's targets (GeneratedTask::group_names).
struct GroupScore {
  std::string name;
  std::int64_t targets = 0, right = 0;
  double accuracy() const { return static_cast<double>(right) / static_cast<double>(targets); }
};

struct Evaluation {
  double loss = 0;                      // mean over targets, natural logarithm
  std::int64_t targets = 0;             // at least 1
  std::optional<double> bits_per_byte;  // of text; absent for a masked model and where bytes are unknown
  std::optional<double> accuracy;       // classifier, generated task: share of targets that are the likeliest
  std::vector<GroupScore> groups;       // of a generated task that tells them apart
};

LoaderOptions loader_options(const Config& config);

// The batch on the device (itself if it is there).
ModelInput model_input(const Batch& batch, Device device);

// A batch that was evaluated, for those who want more than sums.
struct EvaluatedBatch {
  const Batch& batch;
  const ModelInput& input;  // the same on the model's device
  Tensor row_losses;        // on the CPU: the loss of each target, flat; 0 where ignored
};

// How many micro batches evaluate() reads of the dataset.
std::int64_t evaluated_batches(const Config& config, const Dataset& data, std::int64_t max_batches);

// Reads the first `max_batches` micro batches (0: all). `stop` is asked before each one; nullopt if it said
// so. `watch`, if given, sees each one. Error(numeric) if the loss is not finite, Error(data) if no target
// was read: a mean over none is no number.
std::optional<Evaluation> evaluate(const Transformer& model, const Config& config, const Dataset& data,
                                   std::int64_t max_batches, const std::function<bool()>& stop = {},
                                   const std::function<void(const EvaluatedBatch&)>& watch = {});

// The same Error(data) before anything is computed.
void require_targets(const Config& config, const Dataset& data, std::int64_t max_batches);

}  // namespace filigree
