#include "train/ablate/progress_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/progress.h"
#include "train/ablate/cell_state.h"

namespace filigree {
namespace {

constexpr std::chrono::milliseconds kTerminalInterval{500}, kPlainInterval{30000};

// Of a run of `epochs`, the number is known once it has started: from its own config.
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

std::size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

}  // namespace

std::int64_t newest_step(const std::filesystem::path& metrics) {
  std::ifstream in(metrics, std::ios::binary | std::ios::ate);
  if (!in) return 0;
  const auto size = static_cast<std::int64_t>(in.tellg()), begin = std::max<std::int64_t>(0, size - 16384);
  std::string tail(static_cast<std::size_t>(size - begin), '\0');
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
    : sweep_(sweep), jobs_(jobs), terminal_(::isatty(STDOUT_FILENO) != 0), last_(Clock::now()) {}

ProgressLine::~ProgressLine() {
  clear();
}

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

double ProgressLine::seconds_of(const Cell& cell) const {
  const auto same = known_.find(sweep_.variant(cell));
  if (same != known_.end()) return same->second.first / same->second.second;
  double seconds = 0, count = 0;
  for (const auto& [variant, entry] : known_) {
    seconds += entry.first;
    count += entry.second;
  }
  for (const Running& run : running_)
    if (run.now > run.first) {
      seconds += seconds_since(run.begin) / (run.now - run.first);
      ++count;
    }
  return count > 0 ? seconds / count : -1;
}

double ProgressLine::seconds_left() const {
  double left = 0;
  for (const Cell* cell : waiting_) {
    const double seconds = seconds_of(*cell);
    if (seconds < 0) return -1;
    left += seconds;
  }
  for (const Running& run : running_) {
    const double gained = run.now - run.first;
    const double whole = gained > 0 ? seconds_since(run.begin) / gained : seconds_of(*run.cell);
    if (whole < 0) return -1;
    left += whole * (1 - run.now);
  }
  return left / static_cast<double>(std::max<std::size_t>(
                    1, std::min<std::size_t>(jobs_, running_.size() + waiting_.size())));
}

void ProgressLine::update() {
  const auto now = Clock::now();
  if (now - last_ < (terminal_ ? kTerminalInterval : kPlainInterval)) return;
  last_ = now;
  std::string text = fmt::format(
      "{}/{} cells", n_done_,
      n_done_ + n_failed_ + static_cast<int>(waiting_.size()) + static_cast<int>(running_.size()));
  if (n_failed_ > 0) text += fmt::format(", {} failed", n_failed_);
  for (Running& run : running_) {
    run.now = share_done(*run.cell);
    text += fmt::format(" | {} {:.0f} %", run.cell->name, 100 * run.now);
  }
  const double left = seconds_left();
  text += left < 0 ? " | left: not known yet" : fmt::format(" | left {}", human_duration(left));
  if (!terminal_) {
    fmt::print("{}\n", text);
  } else {
    if (text.size() >= terminal_width()) text = text.substr(0, terminal_width() - 3) + "..";
    fmt::print("\r{}\033[K", text);
    drawn_ = true;
  }
  std::fflush(stdout);
}

void ProgressLine::note(const std::string& text) {
  clear();
  fmt::print("{}\n", text);
  std::fflush(stdout);
}

void ProgressLine::clear() {
  if (drawn_) fmt::print("\r\033[K");
  drawn_ = false;
}

}  // namespace filigree
