// How far a sweep is: its cells, those under way, and how long all will still take.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "core/status_line.h"
#include "train/ablate/sweep.h"

namespace filigree {

class ProgressLine {
 public:
  using Clock = std::chrono::steady_clock;

  ProgressLine(const Sweep& sweep, int jobs);

  void waits(const Cell& cell);  // it will run
  void starts(const Cell& cell);
  void ends(const Cell& cell, bool finished);
  // Reads how far the running cells are; prints if it is time.
  void update();
  // A line of its own, above the progress line.
  void note(const std::string& text) { line_.note(text); }
  // Before a message that a signal stopped the sweep.
  void interrupted() { line_.leave(); }

 private:
  struct Running {
    const Cell* cell;
    Clock::time_point begin;
    double first = 0, now = 0;  // share of the steps done: when it started, and now
    // Since it was first seen to have gained: starting, and a first step, say nothing about speed.
    std::optional<Clock::time_point> gaining_since = {};
    double gained_before = 0;
    // The time of all that it does, and steps per second; nullopt: not known yet.
    std::optional<double> whole_seconds() const;
    double steps_per_second() const;
  };
  std::optional<double> seconds_left() const;
  // How long a whole cell takes: by the speed of its variant, else that of all.
  std::optional<double> seconds_of(const Cell& cell) const;

  const Sweep& sweep_;
  int jobs_, n_done_ = 0, n_failed_ = 0;
  std::vector<const Cell*> waiting_;
  std::vector<Running> running_;
  std::map<std::string, std::pair<double, int>> known_;  // by variant: seconds of whole cells, and how many
  StatusLine line_;
  Clock::time_point looked_{};
};

// The newest step in a metrics.jsonl, from its last lines; 0 if there is none yet.
std::int64_t newest_step(const std::filesystem::path& metrics);

}  // namespace filigree
