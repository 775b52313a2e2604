// How a training run begins: anew, or from a checkpoint of its own folder or of another run (a fork).
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/record/run_folder.h"
#include "train/run/progression.h"
#include "train/run/trainer.h"

namespace filigree {

RunMode run_mode(const TrainRequest& request);

// --overwrite cannot remove what the run begins with. Error(usage).
void refuse_own_checkpoints(const TrainRequest& request);
// Reading what the run itself writes would change the data while it trains. Error(usage).
void refuse_own_folder(const Config& config);

// The tokenizer of the checkpoint that the run goes on from, where its file is gone; else null.
std::shared_ptr<const Tokenizer> resumed_tokenizer(const TrainRequest& request);
// The classes of the checkpoint that a classifier goes on from, or takes its weights from; empty: its data's.
std::vector<std::string> known_classes(const TrainRequest& request);

struct Resumed {
  std::optional<RunFolder::Found> checkpoint;  // nullopt: the run begins
  std::int64_t newest = -1;  // step of the folder's newest checkpoint, where another one was named
  std::filesystem::path forked_from = {};         // a checkpoint of another run; empty: none
  std::string same_command = "the same command";  // that goes on after a signal
};
// `now`: the data that the run has. Error(data, usage) if a checkpoint cannot be read or is not one.
Resumed find_resumed(RunFolder& folder, const TrainRequest& request, const Config& config,
                     const Progression& now);

// Error(disk) if the disk has no room for the checkpoints of `each` bytes that the run will have at the worst
// moment, beyond those that are there.
void require_room_for_checkpoints(const RunFolder& folder, const Config& config, std::int64_t step,
                                  std::int64_t each, bool evaluates);

}  // namespace filigree
