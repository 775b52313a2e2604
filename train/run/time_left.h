// How long a run will still take. The first steps, which capture graphs and fill caches, say nothing about
// the others; evaluations count, by what they have taken or, before the first one, by how much work they are.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

namespace filigree {

struct RunOutline {
  std::int64_t steps = 0;
  std::int64_t warm_up = 1;  // steps of this process that are not like those after them
  bool evaluates = false;
  std::int64_t eval_interval = 0;  // steps; 0: only at the end
  double eval_steps = 0;           // how many steps an evaluation is likely to take as long as
};

class TimeLeft {
 public:
  explicit TimeLeft(const RunOutline& run) : run_(run) {}

  void step(double seconds);
  void evaluation(double seconds);
  // Seconds from the end of this step, of whose evaluation, if it has one, a share may be done; nullopt: not
  // known yet.
  std::optional<double> after(std::int64_t step, double evaluated = 0) const;

 private:
  std::optional<double> step_seconds() const;
  bool is_evaluated(std::int64_t step) const;
  std::int64_t evaluations_after(std::int64_t step) const;

  RunOutline run_;
  std::int64_t steps_ = 0;  // of this process
  std::deque<double> newest_;
  std::optional<double> evaluation_;  // the newest
};

}  // namespace filigree
