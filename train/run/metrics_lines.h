// The lines of metrics.jsonl, without their timing.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "train/evaluate/evaluate.h"
#include "train/evaluate/length_scores.h"
#include "train/evaluate/loss_by_position.h"
#include "train/run/step.h"

namespace filigree {

nlohmann::ordered_json step_line(const StepResult& result);

// `hardened`: of the model as it would be if its patterns were hardened.
nlohmann::ordered_json evaluation_line(std::int64_t step, const Evaluation& result,
                                       const LossByPosition& positions,
                                       const std::vector<LengthScore>& lengths,
                                       const std::optional<Evaluation>& hardened);

// The state that learned patterns have come to, layer by layer, for the file and for people; nullopt where
// nothing is learned.
struct ToldPatterns {
  nlohmann::ordered_json layers;
  std::string text;
};
std::optional<ToldPatterns> tell_patterns(const Transformer& model);

}  // namespace filigree
