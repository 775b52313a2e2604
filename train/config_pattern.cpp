#include "attention/pattern.h"
#include "train/config.h"

namespace filigree {

void validate_pattern(const Config& config) {
  const Geometry geometry{config.data.seq_len, config.causal, config.tile};
  const ModelConfig& model = config.model;
  for (int layer = 0; layer < model.n_layers; ++layer)
    make_pattern(config.pattern, layer, model.n_layers, model.n_heads)->validate(geometry, model.n_heads);
}

}  // namespace filigree
