// How a model does on its task in shorter and longer sequences than those of its training.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "train/evaluate/evaluate.h"

namespace filigree {

struct LengthScore {
  std::int64_t length = 0;
  Evaluation result;
};

// Evaluates at each of train.eval_lengths (see at_length), on about as many validation samples as
// `max_batches` micro batches of the config hold (0: all). nullopt if `stop` said so.
std::optional<std::vector<LengthScore>> evaluate_lengths(const Transformer& model, const Config& config,
                                                         std::int64_t max_batches,
                                                         const std::function<bool()>& stop = {});

// Error(data) if one of them would find no target.
void require_length_targets(const Config& config, std::int64_t max_batches);

// [{"length": 512, "targets": 800, "loss": 0.1, "accuracy": 0.98, "accuracy_of": {"depth 0 %": 1, ..}}, ..]
nlohmann::ordered_json to_json(const std::vector<LengthScore>& scores);

// Accuracy in %: a line per group, a column per length.
std::string accuracy_table(const std::vector<LengthScore>& scores);

}  // namespace filigree
