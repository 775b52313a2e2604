#include "train/run/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace filigree {
namespace {

// How far `step` is on the way from `begin` (0) to the last step (1).
double progress(std::int64_t step, std::int64_t begin, std::int64_t last) {
  if (step <= begin) return 0;
  return static_cast<double>(step - begin) / static_cast<double>(last - begin);
}

}  // namespace

double learning_rate(const TrainConfig& config, std::int64_t step) {
  const std::int64_t warmup = config.warmup_steps.value_or(0), last = config.steps - 1;
  require(step >= 0 && step <= last, "[schedule] step {} of a run of {}", step, config.steps);
  if (step < warmup) return config.lr * static_cast<double>(step + 1) / static_cast<double>(warmup + 1);

  const double range = config.lr - config.min_lr;
  switch (config.schedule) {
    case ScheduleType::constant:
      return config.lr;
    case ScheduleType::cosine:
      return config.min_lr + range * 0.5 * (1 + std::cos(std::numbers::pi * progress(step, warmup, last)));
    case ScheduleType::linear:
      return config.lr - range * progress(step, warmup, last);
    case ScheduleType::wsd: {
      const std::int64_t decay = config.decay_steps.value_or(0);
      return config.lr - range * progress(step, std::max(warmup, last - decay), last);
    }
  }
  check(false, "unknown schedule");
  return 0;
}

}  // namespace filigree
