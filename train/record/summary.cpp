#include "train/record/summary.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/file.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The sums over the lines of metrics.jsonl.
class Sums {
 public:
  void add(const Json& line) {
    const Json timing = line.value("timing", Json::object());
    if (has_validation_loss(line)) {
      evaluation_ = line;
      best_ = std::min(best_.value_or(line["val_loss"]), line["val_loss"].get<double>());
      evaluation_seconds_ += timing.value("seconds", 0.0);
    } else if (line.contains("lr") || line.contains("loss")) {
      ++steps_;
      if (line.contains("loss")) losses_.push_back(line["loss"]);
      last_step_ = line.value("step", last_step_ + 1);
      const double took = timing.value("seconds", 0.0), tokens = line.value("tokens", 0.0);
      seconds_.push_back(took);
      if (took > 0) rates_.push_back(tokens / took);
      train_seconds_ += took;
      tokens_ += static_cast<std::int64_t>(tokens);
      peak_ = std::max(peak_, timing.value("peak_bytes", std::int64_t{0}));
    }
  }

  Json summary(Json layers) const {
    Json out{{"steps", last_step_}, {"tokens", tokens_}};
    if (const auto before = last_step_ - steps_; before > 0) out["steps_before"] = before;
    if (!losses_.empty()) out["train_loss"] = last_loss();
    for (const auto& [key, value] : evaluation_.items())
      if (key.starts_with("val_")) out[key] = value;
    if (best_) out["best_val_loss"] = *best_;
    out["layers"] = std::move(layers);
    out["timing"] = {{"step_seconds", median(seconds_)},
                     {"tokens_per_second", median(rates_)},
                     {"train_seconds", train_seconds_},
                     {"evaluation_seconds", evaluation_seconds_},
                     {"peak_bytes", peak_}};
    return out;
  }

 private:
  double last_loss() const {
    const auto n = std::max<std::ptrdiff_t>(1, std::ssize(losses_) / 10);
    double sum = 0;
    for (auto loss = losses_.end() - n; loss != losses_.end(); ++loss) sum += *loss;
    return sum / static_cast<double>(n);
  }

  Json evaluation_ = Json::object();
  std::optional<double> best_;
  std::vector<double> losses_, seconds_, rates_;
  double train_seconds_ = 0, evaluation_seconds_ = 0;
  std::int64_t steps_ = 0, last_step_ = 0, tokens_ = 0, peak_ = 0;
};

Json layer_cost(const TileLayout& layout) {
  const LayoutStatistics s = layout.statistics();
  return {{"tile", layout.tile()},       {"heads", layout.n_heads()},    {"computed_tiles", s.computed_tiles},
          {"dense_tiles", s.full_tiles}, {"exact_pairs", s.exact_pairs}, {"dense_pairs", s.full_pairs}};
}

}  // namespace

bool has_validation_loss(const Json& line) {
  return line.contains("val_loss") && line.value("val_targets", 1) > 0;
}

Json layer_costs(const std::vector<LayoutPtr>& layouts) {
  Json out = Json::array();
  std::vector<LayoutPtr> seen;
  for (std::size_t l = 0; l < layouts.size(); ++l) {
    const auto old = std::find(seen.begin(), seen.end(), layouts[l]);
    const auto at = static_cast<std::size_t>(old - seen.begin());
    if (old == seen.end()) {
      seen.push_back(layouts[l]);
      Json cost{{"layers", Json::array()}};
      cost.update(layer_cost(*layouts[l]));
      out.push_back(std::move(cost));
    }
    out[at]["layers"].push_back(l);
  }
  return out;
}

Json summarize(const std::filesystem::path& metrics, const std::vector<LayoutPtr>& layouts) {
  std::istringstream lines(read_file(metrics));
  Sums sums;
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (lines.eof()) break;  // its writing was cut short
    try {
      const Json json = Json::parse(line);
      if (!json.is_object()) fail(ErrorKind::data, "{}:{}: is no JSON object", metrics.string(), number);
      sums.add(json);
    } catch (const Json::exception& e) {
      fail(ErrorKind::data, "{}:{}: is no line of metrics ({})", metrics.string(), number, e.what());
    }
  }
  return sums.summary(layer_costs(layouts));
}

void write_summary(const std::filesystem::path& run_folder, const std::vector<LayoutPtr>& layouts,
                   Json data) {
  Json summary = summarize(run_folder / "metrics.jsonl", layouts);
  summary["data"] = std::move(data);
  write_file_atomically(run_folder / "summary.json", summary.dump(2) + '\n');
}

}  // namespace filigree
