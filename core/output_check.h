// The rule for a command's outputs: no output replaces an input, nor a file that is there unless the user
// says so.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace filigree {

// Names what a command reads and is about to write, before its work begins:
//
//   OutputCheck check(overwrite);
//   check.reads(checkpoint);
//   check.writes(file, "-o");
//
// An input is known by device and inode, through links and other names. A run's own files (run.json,
// metrics.jsonl, checkpoints/ ..) are replaced by nothing but that run. Streams (is_stream) are no files.
class OutputCheck {
 public:
  explicit OutputCheck(bool overwrite) : overwrite_(overwrite) {}

  // A file, or a folder with all that is in it. What is not there is the reader's business.
  void reads(const std::filesystem::path& input) { inputs_.push_back(input); }

  // Error(usage), naming `option`, if `file` is an input, a run's own file, an output twice, a folder, or
  // there without `overwrite`, or a stream where HDF5 is written, which needs a file; Error(disk) if its
  // folder is not there or not to be written to.
  void writes(const std::filesystem::path& file, const std::string& option, bool hdf5 = false);

 private:
  bool overwrite_;
  std::vector<std::filesystem::path> inputs_, outputs_;
};

// The folder of the run whose own file this is or would be; empty if it is none.
std::filesystem::path run_of_file(const std::filesystem::path& file);

}  // namespace filigree
