#include "train/ablate/budget.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/file.h"

namespace filigree {
namespace {

// The config with another number of steps; warm-up and decay keep their share of them.
Config with_steps(const Config& config, std::int64_t steps) {
  Config out = config;
  const auto scaled = [&](const std::optional<std::int64_t>& part) {
    const double share = static_cast<double>(*part) / static_cast<double>(config.train.steps);
    return std::int64_t{std::llround(share * static_cast<double>(steps))};
  };
  out.train.steps = steps;
  out.train.epochs = 0;
  if (config.train.steps > 0) {
    out.train.warmup_steps = std::min(scaled(config.train.warmup_steps), steps - 1);
    if (config.train.decay_steps)
      out.train.decay_steps =
          std::clamp<std::int64_t>(scaled(config.train.decay_steps), 1, steps - *out.train.warmup_steps);
  }
  return parse_config(out.to_yaml());
}

}  // namespace

Config probe_config(const Cell& cell, std::int64_t steps) {
  Config config = cell.config;
  config.train.steps = steps;
  config.train.epochs = 0;
  config.train.warmup_steps = 0;
  if (config.train.schedule == ScheduleType::wsd) config.train.decay_steps = 1;
  if (config.data.has_validation()) {
    config.train.eval_interval = 0;
    config.train.eval_batches = 1;
  }
  config.checkpoint = {0, 1, false};
  config.train.out += ".probe";
  return config;
}

double median_step_seconds(const std::filesystem::path& metrics) {
  std::istringstream lines(read_file(metrics));
  std::vector<double> seconds;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && json.contains("loss") && json.contains("timing"))
      seconds.push_back(json["timing"].value("seconds", 0.0));
  }
  if (seconds.size() < 3)
    fail(ErrorKind::data, "{}: holds too few steps to tell their speed", metrics.string());
  seconds.erase(seconds.begin(), seconds.begin() + 2);
  std::ranges::sort(seconds);
  return seconds[seconds.size() / 2];
}

void set_steps(Sweep& sweep, const StepSeconds& step_seconds) {
  const Sweep before = sweep;  // the references keep their steps
  for (Cell& cell : sweep.cells) {
    const auto is = [&](const std::string& label) { return std::ranges::count(cell.labels, label) > 0; };
    if (std::ranges::any_of(sweep.equal.except, is)) continue;
    double seconds = sweep.equal.seconds;
    if (!sweep.equal.like.empty()) {
      if (is(sweep.equal.like)) continue;
      const Cell& reference = *before.like(cell, sweep.equal.like);
      require(reference.config.train.steps > 0, "equal: time needs train.steps of {}, not epochs",
              reference.name);
      seconds = step_seconds.at(sweep.variant(reference)) * static_cast<double>(reference.config.train.steps);
    }
    const double each = step_seconds.at(sweep.variant(cell));
    const auto steps = static_cast<std::int64_t>(seconds / each);
    if (steps < 2)
      fail_at(sweep.equal.mark,
              fmt::format("equal: time: {:.3g} s are not enough for cell {}, where a step takes {:.3g} s",
                          seconds, cell.name, each),
              "give more seconds");
    try {
      cell.config = with_steps(cell.config, steps);
    } catch (const Error& e) {
      throw Error(e.kind(), fmt::format("equal: time gives cell {} {} steps: {}", cell.name, steps, e.what()),
                  e.hint());
    }
  }
}

}  // namespace filigree
