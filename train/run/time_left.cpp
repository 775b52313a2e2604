#include "train/run/time_left.h"

#include <algorithm>
#include <numeric>

namespace filigree {
namespace {

constexpr std::size_t kNewestSteps = 32, kEnough = 3;
constexpr double kEnoughSeconds = 1;

}  // namespace

void TimeLeft::step(double seconds) {
  if (++steps_ <= run_.warm_up) return;
  newest_.push_back(seconds);
  if (newest_.size() > kNewestSteps) newest_.pop_front();
}

void TimeLeft::evaluation(double seconds) {
  evaluation_ = seconds;
}

// The mean, without the one that took longest where there are some: it waited for something else.
std::optional<double> TimeLeft::step_seconds() const {
  double sum = std::accumulate(newest_.begin(), newest_.end(), 0.0);
  if (newest_.empty() || (newest_.size() < kEnough && sum < kEnoughSeconds)) return std::nullopt;
  auto count = static_cast<double>(newest_.size());
  if (newest_.size() > 2 * kEnough) {
    sum -= *std::ranges::max_element(newest_);
    --count;
  }
  return sum / count;
}

bool TimeLeft::is_evaluated(std::int64_t step) const {
  if (!run_.evaluates) return false;
  return step >= run_.steps || (run_.eval_interval > 0 && step % run_.eval_interval == 0);
}

std::int64_t TimeLeft::evaluations_after(std::int64_t step) const {
  if (!run_.evaluates || step >= run_.steps) return 0;
  if (run_.eval_interval == 0) return 1;
  return run_.steps / run_.eval_interval - step / run_.eval_interval + (run_.steps % run_.eval_interval != 0);
}

std::optional<double> TimeLeft::after(std::int64_t step, double evaluated) const {
  const auto each = step_seconds();
  if (!each) return step >= run_.steps && !is_evaluated(step) ? std::optional(0.0) : std::nullopt;
  const double of_evaluation = evaluation_.value_or(run_.eval_steps * *each);
  const double under_way = is_evaluated(step) ? 1 - evaluated : 0;
  return *each * static_cast<double>(run_.steps - step) +
         of_evaluation * (static_cast<double>(evaluations_after(step)) + under_way);
}

}  // namespace filigree
