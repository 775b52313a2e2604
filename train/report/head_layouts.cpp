#include "train/report/head_layouts.h"

#include <algorithm>

#include "train/config/layouts.h"
#include "train/evaluate/evaluate.h"
#include "train/record/loaded_model.h"
#include "train/run/trained_data.h"

namespace filigree {
namespace {

bool learns(const Config& config) {
  const ModelConfig& model = config.model;
  const auto patterns = make_layer_patterns(config.pattern, model.n_layers, model.n_heads);
  return std::ranges::any_of(patterns, [&](const PatternPtr& pattern) {
    for (int head = 0; head < model.n_heads; ++head)
      if (pattern->learned(head)) return true;
    return false;
  });
}

// Lets the model read one sequence, after which its routers remember what they chose.
void read_first_sequence(const LoadedModel& loaded, const std::vector<LayoutPtr>& layouts) {
  Config config = loaded.config;
  config.train.micro_batch_size = 1;
  const OpenedData data = open_trained_data(loaded, config);
  require(data.validation.has_value(), "its tiles depend on the input, and it has no validation data");
  LoaderOptions options = loader_options(config);
  options.shuffle = false;
  const auto batch = Loader(*data.validation, options).next();
  loaded.model->forget_evaluated_patterns();
  const NoGrad no_tape;
  loaded.model->forward(model_input(*batch, layouts, loaded.model->device()), {});
}

}  // namespace

HeadLayouts head_layouts(const std::filesystem::path& run, const Config& config) {
  HeadLayouts out{build_layouts(config, config.data.seq_len), ""};
  if (!learns(config)) return out;
  const LoadedModel loaded = load_model(run, DeviceChoice::cpu);
  const auto connections = loaded.model->connections(out.layers);
  if (loaded.model->routes()) {
    read_first_sequence(loaded, out.layers);
    out.note = "The tiles that its routers choose for the first sequence of the validation data.";
  } else {
    out.note = "As learned.";
  }
  const auto routed = loaded.model->training_layouts(out.layers);
  for (std::size_t i = 0; i < out.layers.size(); ++i) {
    const LearnedLayer* layer = loaded.model->learned(i);
    out.layers[i] = layer && layer->routes() ? routed[i] : connections[i].layout;
  }
  return out;
}

}  // namespace filigree
