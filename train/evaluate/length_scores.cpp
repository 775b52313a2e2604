#include "train/evaluate/length_scores.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace filigree {
namespace {

std::string percent(double accuracy) {
  return fmt::format("{:>8.1f}", 100 * accuracy);
}

// The data of one length, and how many of its micro batches hold as many samples as `max_batches` of the
// config's.
struct LengthCase {
  Config config;
  Dataset data;
  std::int64_t max_batches;
};

LengthCase case_of(const Config& config, std::int64_t length, std::int64_t max_batches) {
  const Config there = at_length(config, length);
  const std::int64_t samples = max_batches * config.train.micro_batch_size;
  const std::int64_t batch = there.train.micro_batch_size;
  return {there, Dataset(GeneratedSamples(*there.data.task, length, Split::validation, 0)),
          (samples + batch - 1) / batch};
}

}  // namespace

std::optional<std::vector<LengthScore>> evaluate_lengths(const Transformer& model, const Config& config,
                                                         std::int64_t max_batches,
                                                         const std::function<bool()>& stop) {
  std::vector<LengthScore> scores;
  for (const std::int64_t length : config.train.eval_lengths) {
    const LengthCase there = case_of(config, length, max_batches);
    const auto result = evaluate(model, there.config, there.data, there.max_batches, stop);
    if (!result) return std::nullopt;
    scores.push_back({length, *result});
  }
  return scores;
}

void require_length_targets(const Config& config, std::int64_t max_batches) {
  for (const std::int64_t length : config.train.eval_lengths) {
    const LengthCase there = case_of(config, length, max_batches);
    require_targets(there.config, there.data, there.max_batches);
  }
}

nlohmann::ordered_json to_json(const std::vector<LengthScore>& scores) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const auto& [length, result] : scores) {
    list.push_back({{"length", length}, {"targets", result.targets}, {"loss", result.loss}});
    if (result.accuracy) list.back()["accuracy"] = *result.accuracy;
    for (const GroupScore& group : result.groups)
      if (group.targets > 0) list.back()["accuracy_of"][group.name] = group.accuracy();
  }
  return list;
}

std::string accuracy_table(const std::vector<LengthScore>& scores) {
  std::string text = fmt::format("{:<28}", "accuracy, % at tokens"), all = fmt::format("{:<28}", "all");
  for (const auto& [length, result] : scores) {
    text += fmt::format("{:>8}", length);
    all += percent(*result.accuracy);  // a task's evaluation has one
  }
  for (std::size_t g = 0; g < scores.front().result.groups.size(); ++g) {
    text += fmt::format("\n{:<28}", scores.front().result.groups[g].name);
    for (const LengthScore& score : scores) {
      const GroupScore& group = score.result.groups[g];
      text += group.targets > 0 ? percent(group.accuracy()) : fmt::format("{:>8}", "-");
    }
  }
  return text + '\n' + all;
}

}  // namespace filigree
