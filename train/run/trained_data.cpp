#include "train/run/trained_data.h"

#include "train/run/run_setup.h"

namespace filigree {
namespace {

DataRequest request_of(const LoadedModel& loaded, const Config& config) {
  DataRequest request = data_request(config);
  request.trained_with = loaded.tokenizer;
  request.known_classes = loaded.trained_on.classes;
  return request;
}

// A task's validation samples are never trained on, however it is changed.
bool is_what_the_run_had(const LoadedModel& loaded, const Config& config, const OpenedData& opened) {
  const TrainedOn& then = loaded.trained_on;
  if (opened.train.generated() || then.data.empty()) return true;
  if (!opened.validation) return opened.train.fingerprint() == then.data;
  if (config.data.val != loaded.config.data.val) return true;
  if (!then.validation.empty()) return opened.validation->fingerprint() == then.validation;
  // Checkpoints of older versions know the training data only, which tells how it was split.
  return !config.data.val.empty() || opened.train.fingerprint() == then.data;
}

}  // namespace

TrainedOn trained_on(const OpenedData& data) {
  return {data.train.fingerprint(), data.validation ? data.validation->fingerprint() : "",
          data.train.class_names()};
}

OpenedData open_trained_data(const LoadedModel& loaded, const Config& config) {
  OpenedData opened = open_data(request_of(loaded, config));
  if (!is_what_the_run_had(loaded, config, opened))
    throw Error(
        ErrorKind::data,
        fmt::format("{}: the data is not what this model was trained and validated on: files of {} were "
                    "added, removed or changed, or are split in another way, so that text which was "
                    "trained on could count as validation",
                    loaded.checkpoint.string(),
                    fmt::join(config.data.val.empty() ? config.data.train : config.data.val, ", ")),
        "restore them, or name the text: --data FILES");
  return opened;
}

Dataset open_other_data(const LoadedModel& loaded, const Config& config,
                        const std::vector<std::string>& files) {
  DataRequest request = request_of(loaded, config);
  if (request.classes) request.known_classes = class_names(loaded.trained_on, loaded.checkpoint.string());
  request.task.reset();
  request.train = files;
  request.validation.clear();
  request.val_fraction = 0;
  return open_data(request).train;
}

}  // namespace filigree
