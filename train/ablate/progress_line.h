// The one line that a person sees while a sweep runs: redrawn on a terminal, printed now and then elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

#include "train/ablate/sweep.h"

namespace filigree {

class ProgressLine {
 public:
  using Clock = std::chrono::steady_clock;

  ProgressLine(const Sweep& sweep, int jobs);
  ~ProgressLine();

  void waits(const Cell& cell);  // it will run
  void starts(const Cell& cell);
  void ends(const Cell& cell, bool finished);
  // Reads how far the running cells are; prints if it is time.
  void update();
  // A line of its own, above the progress line.
  void note(const std::string& text);

 private:
  struct Running {
    const Cell* cell;
    Clock::time_point begin;
    double first = 0, now = 0;  // share of the steps done: when it started, and now
  };
  double seconds_left() const;
  // How long a whole cell takes: by its own speed, else that of its variant, else that of all.
  double seconds_of(const Cell& cell) const;
  void clear();

  const Sweep& sweep_;
  int jobs_, n_done_ = 0, n_failed_ = 0;
  bool terminal_, drawn_ = false;
  std::vector<const Cell*> waiting_;
  std::vector<Running> running_;
  std::map<std::string, std::pair<double, int>> known_;  // by variant: seconds of whole cells, and how many
  Clock::time_point last_{};
};

// The newest step in a metrics.jsonl, from its last lines; 0 if there is none yet.
std::int64_t newest_step(const std::filesystem::path& metrics);

}  // namespace filigree
