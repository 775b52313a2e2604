#include "train/length_scores.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "train/layouts.h"

namespace filigree {
namespace {

std::string percent(double accuracy) {
  return fmt::format("{:>8.1f}", 100 * accuracy);
}

}  // namespace

std::optional<std::vector<LengthScore>> evaluate_lengths(const Transformer& model, const Config& config,
                                                         std::int64_t max_batches,
                                                         const std::function<bool()>& stop) {
  std::vector<LengthScore> scores;
  const std::int64_t samples = max_batches * config.train.micro_batch_size;
  for (const std::int64_t length : config.train.eval_lengths) {
    const Config there = at_length(config, length);
    const std::int64_t batch = there.train.micro_batch_size;
    const Dataset data(GeneratedSamples(*there.data.task, length, Split::validation, 0));
    const auto result =
        evaluate(model, there, build_layouts(there, length), data, (samples + batch - 1) / batch, stop);
    if (!result) return std::nullopt;
    scores.push_back({length, *result});
  }
  return scores;
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
    all += percent(result.accuracy.value_or(0));
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
