#pragma once

#include <nlohmann/json_fwd.hpp>

#include "train/record/append_file.h"

namespace filigree {

// metrics.jsonl: {"step": 100, "loss": 2.5, ..., "timing": {"seconds": ..}}. Everything outside `timing` is
// bitwise the same in a resumed and an uninterrupted run.
class MetricsFile {
 public:
  // Opens for appending and cuts the file after the last line whose step is at most `resumed_step`, so that
  // an unfinished line and the lines of steps that will be run again are gone. Error(data) naming the line if
  // one before that is no JSON object with a step.
  MetricsFile(std::filesystem::path path, std::int64_t resumed_step);

  // Writes one line at once. `values` has an integer "step"; `timing` may be empty. Error(disk) on failure.
  void append(const nlohmann::ordered_json& values, const nlohmann::ordered_json& timing);

 private:
  AppendFile file_;
};

}  // namespace filigree
