#include "train/ablate/progress_line.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/progress.h"
#include "train/ablate/cell_state.h"

namespace filigree {
namespace {

constexpr std::chrono::milliseconds kLook{500};  // between two looks at the cells' files
constexpr double kPlainInterval = 30;

// The number of steps of a run of `epochs` is known once it has started: from its own config.
std::int64_t steps_of(const Cell& cell) {
  if (cell.config.train.steps > 0) return cell.config.train.steps;
  try {
    return parse_config(parse_yaml_file(cell_folder(cell) / "config.yaml")).train.steps;
  } catch (const Error&) {
    return 0;
  }
}

double share_done(const Cell& cell) {
  const std::int64_t steps = steps_of(cell);
  const std::int64_t done = newest_step(cell_folder(cell) / "metrics.jsonl");
  return steps > 0 ? std::min(1.0, static_cast<double>(done) / static_cast<double>(steps)) : 0;
}

double seconds_since(ProgressLine::Clock::time_point begin) {
  return std::chrono::duration<double>(ProgressLine::Clock::now() - begin).count();
}

}  // namespace

std::int64_t newest_step(const std::filesystem::path& metrics) {
  std::ifstream in(metrics, std::ios::binary | std::ios::ate);
  if (!in) return 0;
  const auto size = static_cast<std::int64_t>(in.tellg()), begin = std::max<std::int64_t>(0, size - 16384);
  std::string tail(size - begin, '\0');
  in.seekg(begin);
  in.read(tail.data(), std::ssize(tail));
  for (std::size_t end = tail.rfind('\n'); end != std::string::npos && end > 0;) {
    const std::size_t start = tail.rfind('\n', end - 1);
    const std::size_t first = start == std::string::npos ? 0 : start + 1;
    const auto line = nlohmann::json::parse(tail.substr(first, end - first), nullptr, false);
    if (line.is_object() && line.contains("step") && line["step"].is_number_integer()) return line["step"];
    end = start;
  }
  return 0;
}

ProgressLine::ProgressLine(const Sweep& sweep, int jobs)
    : sweep_(sweep), jobs_(jobs), line_(stdout, kPlainInterval) {}

void ProgressLine::waits(const Cell& cell) {
  waiting_.push_back(&cell);
}

void ProgressLine::starts(const Cell& cell) {
  std::erase(waiting_, &cell);
  const double done = share_done(cell);
  running_.push_back({&cell, Clock::now(), done, done});
}

void ProgressLine::ends(const Cell& cell, bool finished) {
  const auto run = std::ranges::find(running_, &cell, &Running::cell);
  if (run != running_.end()) {
    if (finished) {
      auto& [seconds, count] = known_[sweep_.variant(cell)];
      seconds += seconds_since(run->begin) / std::max(0.01, 1 - run->first);
      ++count;
    }
    running_.erase(run);
  }
  ++(finished ? n_done_ : n_failed_);
}

double ProgressLine::Running::steps_per_second() const {
  if (!gaining_since || now <= gained_before) return 0;
  return (now - gained_before) * static_cast<double>(steps_of(*cell)) / seconds_since(*gaining_since);
}

std::optional<double> ProgressLine::Running::whole_seconds() const {
  if (!gaining_since || now <= gained_before) return std::nullopt;
  return std::chrono::duration<double>(*gaining_since - begin).count() +
         seconds_since(*gaining_since) / (now - gained_before);
}

std::optional<double> ProgressLine::seconds_of(const Cell& cell) const {
  const auto same = known_.find(sweep_.variant(cell));
  if (same != known_.end()) return same->second.first / same->second.second;
  double seconds = 0, count = 0;
  for (const auto& [variant, entry] : known_) {
    seconds += entry.first;
    count += entry.second;
  }
  for (const Running& run : running_)
    if (const auto whole = run.whole_seconds()) {
      seconds += *whole;
      ++count;
    }
  return count > 0 ? std::optional(seconds / count) : std::nullopt;
}

std::optional<double> ProgressLine::seconds_left() const {
  double left = 0;
  for (const Cell* cell : waiting_) {
    const auto seconds = seconds_of(*cell);
    if (!seconds) return std::nullopt;
    left += *seconds;
  }
  for (const Running& run : running_) {
    auto whole = run.whole_seconds();
    if (!whole) whole = seconds_of(*run.cell);
    if (!whole) return std::nullopt;
    left += *whole * (1 - run.now);
  }
  return left / static_cast<double>(std::max<std::size_t>(
                    1, std::min<std::size_t>(jobs_, running_.size() + waiting_.size())));
}

void ProgressLine::update() {
  const auto now = Clock::now();
  if (now - looked_ < kLook) return;
  looked_ = now;
  double steps_per_second = 0, done = n_done_ + n_failed_;
  for (Running& run : running_) {
    run.now = share_done(*run.cell);
    if (!run.gaining_since && run.now > run.first) {
      run.gaining_since = now;
      run.gained_before = run.now;
    }
    steps_per_second += run.steps_per_second();
    done += run.now;
  }
  if (!line_.due()) return;
  const auto n_cells = n_done_ + n_failed_ + std::ssize(waiting_) + std::ssize(running_);
  const auto left = seconds_left();
  Status status{done / static_cast<double>(std::max<std::ptrdiff_t>(1, n_cells)),
                {fmt::format("{}/{} cells", n_done_, n_cells),
                 fmt::format("ETA {}", left ? human_duration(*left) : "-")}};
  if (n_failed_ > 0) status.parts.push_back(fmt::format("{} failed", n_failed_));
  if (steps_per_second > 0) status.parts.push_back(fmt::format("{:.3g} steps/s", steps_per_second));
  for (const Running& run : running_)
    status.parts.push_back(fmt::format("{} {:.0f} %", run.cell->name, 100 * run.now));
  line_.draw(status);
}

}  // namespace filigree
