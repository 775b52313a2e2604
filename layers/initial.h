// Initialisation as in GPT-2 (Radford et al. 2019, section 2.3): normal with deviation 0.02, and what writes
// to the residual stream scaled down by the root of the number of such writes. Llama models in Hugging Face
// start from the same 0.02.
#pragma once

#include <cmath>

#include "layers/model_config.h"

namespace filigree {

inline constexpr double kInitialDeviation = 0.02;

inline double residual_deviation(const ModelConfig& config) {
  return kInitialDeviation / std::sqrt(2.0 * config.n_layers);
}

}  // namespace filigree
