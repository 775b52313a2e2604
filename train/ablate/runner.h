// Runs the cells of a sweep as processes of this same binary, each an ordinary run that resumes as such. The
// folder OUT holds
//
//   <cell>/          a run's folder with cell.yaml and output.log (cell_state.h)
//   sweep.json       cells, fitted parameters, measured speeds (sweep_file.h)
//   results.*        tables, and the page with its figures (train/report/report.h)
//   report.*
//   lock             held while a sweep runs
#pragma once

#include <string>
#include <vector>

#include "train/ablate/sweep.h"

namespace filigree {

struct AblateRequest {
  Sweep sweep;
  int jobs = 1;            // cells at a time; the threads are divided among them
  bool overwrite = false;  // train changed and damaged cells anew
  bool dry_run = false;    // show the cells, write nothing
  bool time_alone = true;  // those that ran beside others, for a few steps: else speeds are not ranked
};

// Returns the process's exit code: 0, kExitResumable after a signal, or that of the first cell that failed.
// Error(usage) before anything is started if a cell's folder holds a run with another config.
int ablate(AblateRequest request);

// The table of cells that is printed at the start: name, computed tiles, fitted parameter.
std::string describe(const Sweep& sweep);

}  // namespace filigree
