#include "train/report/head_layouts.h"

#include "train/config/layouts.h"
#include "train/evaluate/evaluate.h"
#include "train/record/loaded_model.h"
#include "train/run/trained_data.h"

namespace filigree {
namespace {

// Lets the model read one sequence, after which its routers remember what they chose.
void read_first_sequence(const LoadedModel& loaded) {
  Config config = loaded.config;
  config.train.micro_batch_size = 1;
  const OpenedData data = open_trained_data(loaded, config);
  require(data.validation.has_value(), "its tiles depend on the input, and it has no validation data");
  LoaderOptions options = loader_options(config);
  options.shuffle = false;
  const auto batch = Loader(*data.validation, options).next();
  const NoGrad no_tape;
  loaded.model->forward(model_input(*batch, loaded.model->device()), {});
}

}  // namespace

HeadLayouts head_layouts(const std::filesystem::path& run, const Config& config) {
  const LayerPatternsPtr patterns = layer_patterns(config);
  if (!patterns->learns()) return {patterns->layouts(config.data.seq_len), ""};
  const LoadedModel loaded = load_model(run, DeviceChoice::cpu);
  HeadLayouts out{{}, "As learned."};
  if (loaded.model->reads_text()) {
    read_first_sequence(loaded);
    out.note = "The tiles that its routers choose for the first sequence of the validation data.";
  }
  for (const ConnectivityPtr& layer : loaded.model->connectivities())
    out.layers.push_back(layer->reads_text() ? layer->computed()
                                             : layer->connect({config.data.seq_len}).layout);
  return out;
}

}  // namespace filigree
