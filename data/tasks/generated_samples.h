// One split of a generated task as the loader reads it.
#pragma once

#include <string>

#include "data/tasks/registry.h"

namespace filigree {

class GeneratedSamples {
 public:
  // `seed` is the run's. The validation samples do not depend on it: runs that differ in their seed are
  // scored on the same ones.
  GeneratedSamples(GeneratedData data, std::int64_t seq_len, Split split, std::uint64_t seed);

  const GeneratedTask& task() const { return *data_.task; }
  std::int64_t seq_len() const { return seq_len_; }
  std::int64_t size() const {
    return split_ == Split::train ? data_.samples : data_.val_samples;
  }  // an epoch
  // True if every epoch draws new samples; then their order says nothing and is not shuffled.
  bool fresh() const { return split_ == Split::train && data_.fresh; }
  // Sample `k` of an epoch; `inputs` [seq_len], `targets` [seq_len] or [1]. From any thread.
  DrawnSample make(std::int64_t epoch, std::int64_t k, std::span<std::int32_t> inputs,
                   std::span<std::int32_t> targets) const;
  std::string fingerprint() const;  // changes whenever a sample does
  std::string describe() const;     // "planted: 100 k samples an epoch, new ones each epoch"

 private:
  GeneratedData data_;
  std::int64_t seq_len_;
  Split split_;
  std::uint64_t seed_;
};

}  // namespace filigree
