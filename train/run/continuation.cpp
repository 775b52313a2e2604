#include "train/run/continuation.h"

#include <algorithm>

#include "train/record/checkpoint.h"
#include "train/run/schedule.h"

namespace filigree {
namespace {

constexpr const char* kFork =
    "--resume CHECKPOINT with another train.out goes on from it as a run of its own: weights, moments, step "
    "count and "
    "position in the data stay, the learning rate is the new schedule's";

// Copies the settings that decide the learning rate of a step, and how many steps there are.
void copy_schedule(const TrainConfig& from, TrainConfig& to) {
  to.steps = from.steps;
  to.epochs = from.epochs;
  to.schedule = from.schedule;
  to.min_lr = from.min_lr;
  to.warmup_steps = from.warmup_steps;
  to.decay_steps = from.decay_steps;
}

// Copies the other settings that a fork may change.
void copy_free_in_fork(const Config& from, Config& to) {
  to.train.lr = from.train.lr;
  to.train.weight_decay = from.train.weight_decay;
  for (std::size_t i = 0; i < std::min(to.train.groups.size(), from.train.groups.size()); ++i) {
    to.train.groups[i].lr_factor = from.train.groups[i].lr_factor;
    to.train.groups[i].weight_decay = from.train.groups[i].weight_decay;
  }
  to.train.clip = from.train.clip;
  to.train.eval_interval = from.train.eval_interval;
  to.train.eval_batches = from.train.eval_batches;
  to.train.eval_lengths = from.train.eval_lengths;
  to.model.dropout = from.model.dropout;
  to.model.activation_checkpointing = from.model.activation_checkpointing;
  to.device = from.device;
  to.precision = from.precision;
}

// With what was derived from the steps as it was before.
TrainConfig with_derived_of(const TrainConfig& saved, TrainConfig train) {
  if (train.warmup_is_default.value) train.warmup_steps = saved.warmup_steps;
  if (train.decay_is_default.value && train.decay_steps && saved.decay_steps)
    train.decay_steps = saved.decay_steps;
  return train;
}

void require_steps(const TrainConfig& train, const TrainConfig& saved, std::int64_t step,
                   const std::string& origin) {
  if (train.steps < step)
    throw Error(ErrorKind::usage,
                fmt::format("{}: train.steps is {}, but {} steps are done", origin, train.steps, step),
                "train.steps counts from the beginning of the run; an older checkpoint can be named with "
                "--resume and "
                "another train.out");
  if (const auto found = schedule_conflict(train))
    fail(ErrorKind::usage, "{}: {} (of the run so far, with {} steps)", origin, found->message, saved.steps);
}

// The learning rates of all steps that are done. Of those that differ, the message names the first one that
// four digits tell apart, for schedules may begin with steps that differ in their last bits only.
void require_same_past(const TrainConfig& train, const TrainConfig& saved, std::int64_t step,
                       const std::string& origin) {
  std::string difference;
  for (std::int64_t s = 0; s < step; ++s) {
    const double before = learning_rate(saved, s), now = learning_rate(train, s);
    if (before == now) continue;
    const std::string old_rate = fmt::format("{:.4g}", before), new_rate = fmt::format("{:.4g}", now);
    const bool told_apart = old_rate != new_rate;
    if (!told_apart && !difference.empty()) continue;
    difference = fmt::format("step {} would have had another learning rate, {} instead of {}", s + 1,
                             told_apart ? new_rate : fmt::to_string(now),
                             told_apart ? old_rate : fmt::to_string(before));
    if (told_apart) break;
  }
  if (!difference.empty())
    throw Error(
        ErrorKind::usage,
        fmt::format("{}: a run of {} steps ({}) cannot become one of {} ({}): {} are done, and of these {}",
                    origin, saved.steps, word(saved.schedule), train.steps, word(train.schedule), step,
                    difference),
        kFork);
}

}  // namespace

ContinuedSchedule continue_schedule(const Config& config, const std::string& checkpoint_yaml,
                                    std::int64_t step, Continuation kind, const std::string& origin) {
  const Config saved = parse_config(parse_yaml(checkpoint_yaml, origin));
  ContinuedSchedule out{with_derived_of(saved.train, config.train), saved.train.steps, false};
  Config like = config;
  like.train = out.train;
  copy_schedule(saved.train, like.train);
  out.changed = like.train != out.train;
  if (kind == Continuation::fork) copy_free_in_fork(saved, like);
  require_same_run(like, checkpoint_yaml, origin);
  if (!out.changed) return out;
  require_steps(out.train, saved.train, step, origin);
  if (kind == Continuation::same_run) require_same_past(out.train, saved.train, step, origin);
  return out;
}

void require_same_phases(const ContinuedSchedule& schedule, bool learned, Continuation kind,
                         const std::string& origin) {
  if (schedule.train.steps == schedule.steps_before || (learned && kind == Continuation::fork)) return;
  throw Error(
      ErrorKind::usage,
      fmt::format("{}: a run of {} steps cannot become one of {}: the phases in which its pattern is learned "
                  "are shares of train.steps",
                  origin, schedule.steps_before, schedule.train.steps),
      learned ? kFork : "keep train.steps, or train a new run with another train.out");
}

}  // namespace filigree
