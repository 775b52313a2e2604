// Going on from a checkpoint with another length or schedule than it was made with.
//
// In the same folder a run goes on with other train.steps, schedule, min_lr, warmup_steps and decay_steps if
// every step that is done had the learning rate that it has under the new ones: then the run ends with the
// bits of one that had them from its start. `constant` may be lengthened at any time and `wsd` before its
// decay began; what was derived from the steps and not written (warmup_steps, decay_steps) stays what it was.
//
// A fork goes on in a folder of its own from a checkpoint that was named, with its weights, moments, step
// count and position in the data. It may also change train.lr, weight_decay, clip, eval_interval,
// eval_batches and eval_lengths, model.dropout and activation_checkpointing, device and precision, and its
// learning rates are those of the new schedule, which counts its steps from the beginning.
#pragma once

#include <cstdint>
#include <string>

#include "train/config/config.h"

namespace filigree {

enum class Continuation { same_run, fork };

struct ContinuedSchedule {
  TrainConfig train;  // with what is derived from the steps as it was
  std::int64_t steps_before = 0;
  bool changed = false;  // not the schedule of the checkpoint
};

// How a run of `config` goes on from a checkpoint of `step` steps and this config. Error(usage) with the keys
// that may not change, the steps that are done or the rates that they had, and what can be done instead.
// `origin` names the checkpoint.
ContinuedSchedule continue_schedule(const Config& config, const std::string& checkpoint_yaml,
                                    std::int64_t step, Continuation kind, const std::string& origin);

// Where steps are the clock of patterns that are learned, their number must stay: their phases are shares of
// it. `learned`: no pattern changes any more, which is enough for a fork. Error(usage).
void require_same_phases(const ContinuedSchedule& schedule, bool learned, Continuation kind,
                         const std::string& origin);

}  // namespace filigree
