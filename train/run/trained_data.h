// The data that a trained model is used on: what it was trained on, opened again, or other text.
#pragma once

#include <string>
#include <vector>

#include "data/open_data.h"
#include "train/record/loaded_model.h"

namespace filigree {

// The facts that the state of a checkpoint will tell of this data.
TrainedOn trained_on(const OpenedData& data);

// Opens the data that `config` names, which is the model's own or one with other data. Error(data) if its
// validation data is not the one that the run had, for then some of it may have been trained on: files were
// added or changed, or they are split in another way. Validation files that the model's own config does not
// name are taken as they are.
OpenedData open_trained_data(const LoadedModel& loaded, const Config& config);

// All of these files, folders and globs; a classifier's class folders are matched by name.
Dataset open_other_data(const LoadedModel& loaded, const Config& config,
                        const std::vector<std::string>& files);

}  // namespace filigree
