#include "attention/pattern.h"

#include "train/config/config.h"

namespace filigree {

void validate_pattern(const Config& config) {
  const Geometry geometry{config.data.seq_len, config.causal, config.tile};
  const ModelConfig& model = config.model;
  for (const PatternPtr& pattern : make_layer_patterns(config.pattern, model.n_layers, model.n_heads)) {
    pattern->validate(geometry, model.n_heads);
    require_pairs(*pattern, geometry, model.n_heads, config.pattern.mark);
  }
}

}  // namespace filigree
