#include "train/ablate/budget.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "core/file.h"
#include "core/status_line.h"
#include "train/ablate/cell_state.h"
#include "train/ablate/child.h"
#include "train/run/signals.h"

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

// A speed holds for this config, whatever its seed, and these threads.
std::string measured_with(Config config, int threads) {
  config.seed = 0;
  return fmt::format("{}-{}", config_hash(config), threads);
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

std::optional<double> probe_seconds(const Cell& cell, const Config& probe, int threads) {
  Cell as_cell = cell;
  as_cell.config = probe;
  write_cell_config(as_cell, cell_config_path(as_cell));
  const std::filesystem::path folder = cell_folder(as_cell), log = cell_log_path(as_cell);
  Child child({own_binary(), "train", cell_config_path(as_cell), fmt::format("threads={}", threads),
               "--overwrite", "--resume", "never"},
              log);
  while (!child.poll()) {
    std::this_thread::sleep_for(kPoll);
    if (StopSignals::requested()) child.stop();
  }
  if (StopSignals::requested()) return std::nullopt;
  if (*child.poll() != 0)
    fail(ErrorKind::usage, "measuring the speed of cell {} failed: {} (log: {})", cell.name,
         last_error(log, child.log_begin(), *child.poll()), log.string());
  const double seconds = median_step_seconds(folder / "metrics.jsonl");
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return seconds;
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

bool give_equal_time(Sweep& sweep, SweepFile& file, int threads) {
  StepSeconds step_seconds;
  for (const Cell& cell : sweep.cells) {
    const std::string variant = sweep.variant(cell);
    if (step_seconds.contains(variant)) continue;
    const Config probe = probe_config(cell, sweep.equal.probe_steps);
    const std::string with = measured_with(probe, threads);
    if (!file.probes.contains(variant) || file.probes[variant].value("config", "") != with) {
      say(stdout, fmt::format("equal time: measuring {}\n", variant));
      const auto seconds = probe_seconds(cell, probe, threads);
      if (!seconds) return false;
      file.probes[variant] = {{"seconds", *seconds}, {"config", with}};
    }
    step_seconds[variant] = file.probes[variant].at("seconds");
  }
  set_steps(sweep, step_seconds);
  for (const Cell& cell : sweep.cells)
    say(stdout, fmt::format("equal time: {} trains {} steps of {:.4g} s\n", cell.name,
                            cell.config.train.steps, step_seconds.at(sweep.variant(cell))));
  return true;
}

}  // namespace filigree
