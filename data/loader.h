// Batches from a dataset. All samples of an epoch are fixed windows of the packed stream of documents; only
// their order is shuffled, by a permutation that is a function of (seed, epoch). So every sample comes
// exactly once an epoch, nothing is dropped, and a position is two integers.
//
// decoder: sample k has the inputs [k N, (k + 1) N) of the stream and the same tokens one later as targets;
// every token but the stream's first is a target once an epoch. With `documents`, the first token of a
// document is a target only if it is the separator: without one nothing tells that the document before has
// ended. encoder_mlm: the same windows, targets from data/masking.h, drawn anew each epoch.
// encoder_classifier: sample k is document k, cut after N tokens; its target is the document's label. A
// generated task's samples are made as they are needed, new ones each epoch unless it says otherwise; then
// nothing is shuffled. Short samples are padded at the end: input 0, target ops::kIgnoreIndex, bounds [0, 0).
#pragma once

#include <cstdint>
#include <future>
#include <optional>

#include "core/model_type.h"
#include "core/tensor.h"
#include "data/dataset.h"

namespace filigree {

struct LoaderPosition {
  std::int64_t epoch = 0;
  std::int64_t next_sample = 0;  // in the epoch's order; always below samples_per_epoch
  bool operator==(const LoaderPosition&) const = default;
};

struct LoaderOptions {
  ModelType type = ModelType::decoder;
  std::int64_t batch_size = 1;
  std::int64_t seq_len = 0;
  bool documents = true;           // rows see only their own document; otherwise all but the padding, and
                                   // text runs on from one document into the next
  bool shuffle = true;             // off: in the stream's order
  double mask_probability = 0.15;  // encoder_mlm
  std::uint64_t seed = 1;
  bool single_pass = false;  // one epoch, the last batch may be smaller; otherwise batches run on for ever,
                             // across epochs
  bool prefetch = true;      // makes the next batch in the background
};

struct Batch {
  Tensor inputs;        // i32 [B, N]
  Tensor targets;       // i32 [B, N]; encoder_classifier: [B]
  Tensor row_bounds;    // i32 [B, N, 2]: row n may see [lo, hi) of its sample (causality is the layout's)
  Tensor token_bounds;  // i32 [B, 2]: the sample's real tokens
  std::int64_t n_targets = 0;        // that count
  std::int64_t n_bytes = 0;          // of text that these targets stand for; 0 where the tokenizer is unknown
  std::int64_t n_tokens = 0;         // inputs without padding
  std::vector<std::int32_t> groups;  // of each sample of a generated task (data/tasks/task.h); else empty
  LoaderPosition begin, end;         // end is where the next batch begins
};

class Loader {
 public:
  // The dataset must outlive the loader. Error(usage) for impossible options, Error(data) for data that
  // cannot serve the task.
  Loader(const Dataset& dataset, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  std::int64_t samples_per_epoch() const { return n_samples_; }
  // The position of the batch that next() returns next, whatever was made ahead.
  LoaderPosition position() const { return position_; }
  void seek(const LoaderPosition& position);  // Error(data) if it lies outside the epoch
  std::optional<Batch> next();                // nullopt: single_pass is over

 private:
  Batch make(LoaderPosition at) const;
  std::int64_t batch_size_at(const LoaderPosition& at) const;
  bool over(const LoaderPosition& at) const { return options_.single_pass && at.epoch > 0; }
  void start_ahead();
  void drop_ahead();

  const Dataset& dataset_;
  LoaderOptions options_;
  std::int64_t n_samples_ = 0;
  LoaderPosition position_;
  std::future<Batch> ahead_;  // the batch at position_, if it is being made
};

}  // namespace filigree
