// Learning rate schedules: pure functions of the step.
#pragma once

#include <cstdint>

#include "train/config/config.h"

namespace filigree {

// The learning rate of step 0 <= step < config.steps; steps are resolved (see resolve_steps). The first
// warmup_steps rise linearly from lr / (warmup_steps + 1), and step warmup_steps has lr. From there
//   constant  stays
//   cosine    falls along half a cosine (Loshchilov & Hutter 2017)     to min_lr at the last step
//   linear    falls linearly                                           to min_lr at the last step
//   wsd       stays, then falls linearly over the last decay_steps     to min_lr at the last step
//             (warm-up, stable, decay: Hu et al. 2024)
double learning_rate(const TrainConfig& config, std::int64_t step);

}  // namespace filigree
