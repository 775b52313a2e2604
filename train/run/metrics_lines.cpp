#include "train/run/metrics_lines.h"

#include <fmt/format.h>

namespace filigree {

using Json = nlohmann::ordered_json;

Json step_line(const StepResult& result) {
  Json line{{"step", result.step + 1}};
  if (result.targets > 0)
    line["loss"] = result.loss;
  else
    line["targets"] = 0;
  line.update(Json{{"grad_norm", result.grad_norm}, {"lr", result.lr}, {"tokens", result.tokens}});
  return line;
}

Json evaluation_line(std::int64_t step, const Evaluation& result, const LossByPosition& positions,
                     const std::vector<LengthScore>& lengths, const std::optional<Evaluation>& hardened) {
  Json line{{"step", step}, {"val_loss", result.loss}, {"val_targets", result.targets}};
  if (result.bits_per_byte) line["val_bits_per_byte"] = *result.bits_per_byte;
  if (result.accuracy) line["val_accuracy"] = *result.accuracy;
  if (Json buckets = to_json(positions); !buckets.empty()) line["val_loss_by_position"] = std::move(buckets);
  if (!lengths.empty()) line["val_by_length"] = to_json(lengths);
  for (const GroupScore& group : result.groups)
    if (group.targets > 0) line["val_accuracy_of"][group.name] = group.accuracy();
  if (hardened) line["val_loss_hardened"] = hardened->loss;
  return line;
}

std::optional<ToldPatterns> tell_patterns(const Transformer& model) {
  ToldPatterns told{Json::array(), ""};
  for (std::size_t i = 0; i < model.connectivities().size(); ++i) {
    const auto telemetry = model.connectivities()[i]->telemetry();
    if (!telemetry) continue;
    const LearnTelemetry& t = *telemetry;
    told.layers.push_back({{"layer", i},
                           {"target_tiles", t.target_tiles},
                           {"expected_tiles", t.expected_tiles},
                           {"actual_tiles", t.actual_tiles},
                           {"gate_histogram", t.histogram},
                           {"units", t.units},
                           {"dead_units", t.dead_units},
                           {"head_imbalance", t.head_imbalance()}});
    told.text +=
        fmt::format("{}layer {}: {} tiles (aim {:.0f}), {} of {} units off", told.text.empty() ? "" : "; ", i,
                    t.actual_tiles, t.target_tiles, t.dead_units, t.units);
  }
  if (told.layers.empty()) return {};
  return told;
}

}  // namespace filigree
