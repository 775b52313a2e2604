// `equal: time`: every cell trains for the same number of seconds. What a step takes is measured by a short
// run of its own, alone on the machine with the threads that the cell will have; then steps = seconds /
// median seconds of a step. Evaluation and checkpoints do not count. Seeds share a measurement.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "train/ablate/sweep_file.h"

namespace filigree {

// By Sweep::variant: median seconds of a training step.
using StepSeconds = std::map<std::string, double>;

// The config of the run that measures: a few steps, one batch of evaluation, nothing else.
Config probe_config(const Cell& cell, std::int64_t steps);

// Median of timing.seconds in a metrics.jsonl without its first two steps. Error(data) if there are none.
double median_step_seconds(const std::filesystem::path& metrics);

// The same of a run with this config, in a folder of its own beside the cell's, which goes again. nullopt if
// a signal came first; Error(usage) naming the cell if the run fails.
std::optional<double> probe_seconds(const Cell& cell, const Config& probe, int threads);

// Sets train.steps of every cell that is not excepted. Error(usage) naming the cell where the budget is less
// than two steps, or its config does not fit the new number (warmup_steps, decay_steps).
void set_steps(Sweep& sweep, const StepSeconds& step_seconds);

// Measures each variant that `file` does not know yet, and sets the steps. False if a signal came first.
bool give_equal_time(Sweep& sweep, SweepFile& file, int threads);

}  // namespace filigree
