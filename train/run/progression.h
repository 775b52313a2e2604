// How far a training run has come: what a checkpoint holds beside tensors, enough to make the next step the
// one that would have come.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "data/loader.h"
#include "train/record/checkpoint.h"

namespace filigree {

struct Progression {
  std::int64_t step = 0;  // steps done
  LoaderPosition position;
  double best_loss = std::numeric_limits<double>::infinity();
  bool evaluation_due = false;  // stopped between a step and its evaluation
  TrainedOn on;
  std::string tokenizer;     // of the data; empty: unknown
  std::string layout_files;  // see layout_files_sum

  std::string to_json() const;
  // Error(data) if the text is not the state of a training run; `origin` names its checkpoint.
  static Progression from_json(const std::string& text, const std::string& origin);
};

// Error(data) unless the checkpoint was made with the tokenizer, data and layout files that the run has now.
void require_same_data(const Progression& saved, const Progression& now, const std::string& origin);

}  // namespace filigree
