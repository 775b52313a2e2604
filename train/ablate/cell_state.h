// The content of a cell's folder when a sweep begins, and what to do about it. Beside an ordinary run's files
// it holds
//
//   cell.yaml         the config that the sweep gave it
//   cell.next.yaml    the one of a run that is to replace it, until that has begun
//   output.log        what its processes printed
#pragma once

#include <map>
#include <string>
#include <vector>

#include "train/ablate/sweep.h"
#include "train/record/checkpoint.h"

namespace filigree {

enum class CellState {
  fresh,     // nothing there
  begun,     // unfinished, with this config: the ordinary resume goes on with it
  finished,  // with this config
  changed,   // a run with another config
  damaged,   // files of a run that cannot be read
};

struct Inspection {
  CellState state = CellState::fresh;
  std::string problem;  // damaged: what is wrong. changed: the keys that differ
};

Inspection inspect_cell(const Cell& cell);

// True if the data of a finished cell is what it was trained and validated on. Opens it, once for all cells
// whose data and seed are the same.
class DataCheck {
 public:
  bool has_changed(const Cell& cell);

 private:
  std::map<std::string, TrainedOn> now_;
};

std::filesystem::path cell_folder(const Cell& cell);
std::filesystem::path cell_config_path(const Cell& cell);
std::filesystem::path next_config_path(const Cell& cell);
std::filesystem::path cell_log_path(const Cell& cell);
// Writes the cell's config to `path`, making its folder. Error(disk).
void write_cell_config(const Cell& cell, const std::filesystem::path& path);

}  // namespace filigree
