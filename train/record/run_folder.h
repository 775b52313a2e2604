// The folder of one run, held by one process:
//
//   config.yaml                  the resolved config
//   run.json                     status, config hash, libraries, tokenizer, the checkpoint of another run
//   that
//                                it began from; and `commands`, of each that worked on the run its command
//                                line, from_step, start, end (none: it was killed), error, host, device,
//                                threads, version, commit, build
//   metrics.jsonl                one JSON object a line
//   tensorboard/events...        TensorBoard's event files, if the config asks for them
//   summary.json                 of a finished run: final quality, speed, memory, tiles
//   (train/record/summary.h) checkpoints/step_000100.h5   the newest N checkpoints/best.h5          the
//   lowest validation loss so far lock                         flock'ed while a process uses the folder;
//   holds its PID
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train/config/config.h"
#include "train/record/checkpoint.h"
#include "train/record/folder_lock.h"

namespace filigree {

enum class RunMode {
  resume,     // go on where an unfinished run is, start where none is
  start,      // Error(usage) where a run is
  overwrite,  // remove the run that is there, unless it is to go on (begun_by_overwrite)
};

class RunFolder {
 public:
  // Makes the folder if need be and locks it. Error(usage) if another process holds it, or if it holds a run
  // that `mode` does not let go on: a finished one (resume, start) or any (start). Changes nothing else yet.
  // `steps`: of the run to come, if known; a finished run of another number may go on.
  RunFolder(std::filesystem::path folder, RunMode mode, std::int64_t steps = 0);

  const std::filesystem::path& path() const { return folder_; }
  std::filesystem::path metrics_path() const { return folder_ / "metrics.jsonl"; }
  std::filesystem::path events_path() const { return folder_ / "tensorboard"; }
  std::filesystem::path checkpoint_path(std::int64_t step) const;
  std::filesystem::path best_path() const;

  std::int64_t newest_step() const;  // of its checkpoints; -1 if there are none

  struct Found {
    std::filesystem::path path;
    CheckpointContents contents;
    std::vector<std::string> damaged;  // messages about newer checkpoints that do not verify
  };
  // The newest checkpoint that verifies; nullopt if there is none at all or the mode is overwrite.
  // Error(data) if there are some and all are damaged.
  std::optional<Found> latest() const;

  // The mode `overwrite` is for a run that is done with. One that is unfinished, has this config and was
  // begun in that mode is what the same command was stopped in: it is to go on, from this checkpoint. nullopt
  // if the run is another, or has no checkpoint that verifies.
  std::optional<Found> begun_by_overwrite(const Config& config) const;
  void go_on() { mode_ = RunMode::resume; }
  bool goes_on() const { return mode_ != RunMode::overwrite; }  // what is there stays

  // Steps of the checkpoints that are there, and what they take on the disk with the best one.
  std::int64_t n_checkpoints() const;
  std::int64_t checkpoint_bytes_there() const;

  // For a run that is to go on from a checkpoint that was named: whether it does so by what this folder
  // holds, which has begun from there before. False: this folder holds no run, or the checkpoint is its own.
  // Error(usage) if it holds a run that began elsewhere.
  bool has_begun_from(const std::filesystem::path& checkpoint) const;
  bool is_own(const std::filesystem::path& checkpoint) const;

  // Where a run comes from, beside its config.
  struct Origin {
    std::string tokenizer;             // of the data, as Vocabulary::tokenizer; ids: not known
    std::filesystem::path checkpoint;  // of another run, that this one went on from; empty: none
  };
  // Call once, before the first step: writes config.yaml and run.json, adding this command to those of the
  // run so far, and removes the summary of a finished run that goes on. With `overwrite` the old run's files
  // go first.
  void begin(const Config& config, const std::string& command_line, std::int64_t resumed_step,
             const Origin& origin = {});
  // Writes and verifies a checkpoint, then removes all but the newest `keep`, and those of later steps, which
  // a resumed run left behind.
  void save(std::int64_t step, const CheckpointContents& contents, std::int64_t keep);
  void save_best(const CheckpointContents& contents);
  // The end of this command: marks the run as finished, or leaves it unfinished, with the error if one ended
  // it.
  void finish();
  void stop(const std::string& error = "");

 private:
  void end_command(const char* status, const std::string& error);

  std::filesystem::path folder_;
  RunMode mode_;
  FolderLock lock_;
};

// The checkpoint that --resume CHECKPOINT|RUN goes on from: a file itself; of a run folder the newest
// checkpoint that verifies, where best.h5 counts as the oldest. Error(data) if there is none.
RunFolder::Found checkpoint_to_resume(const std::filesystem::path& path);

// The file that a CHECKPOINT|RUN argument means: a file itself; of a run folder best.h5, or else the newest
// checkpoint. Error(data) if there is none.
std::filesystem::path find_checkpoint(const std::filesystem::path& path);

}  // namespace filigree
