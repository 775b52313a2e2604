// How the loss of a language model falls with the text that a prediction can look back at.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/loader.h"

namespace filigree {

class LossByPosition {
 public:
  // Positions first .. last, by powers of two: 0, 1, 2-3, 4-7, ...
  struct Bucket {
    std::int64_t first = 0, last = 0, targets = 0;
    double loss = 0;  // mean, natural logarithm
  };

  // A target's position is the number of tokens of its document (its sequence, where documents are off)
  // before the one that it is predicted at, within the window. `row_losses`: f32 or f64 on the CPU, one per
  // target, flat.
  void add(const Batch& batch, const Tensor& row_losses);
  std::vector<Bucket> buckets() const;  // those with targets
  std::string table() const;            // a line per bucket, below a line of names

 private:
  std::vector<Bucket> sums_;  // `loss` is a sum here
};

// [{"first": 4, "last": 7, "targets": 800, "loss": 2.1}, ..]
nlohmann::ordered_json to_json(const LossByPosition& positions);

}  // namespace filigree
