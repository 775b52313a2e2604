// A dataset: one stream of tokens, cut into documents, from raw text, token files or .bin files alike; or the
// samples of a generated task, which is no stream.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/sources.h"
#include "data/tasks/generated_samples.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace filigree {

// Where tokens lie: in memory or in a file. read() may be called from several threads.
class TokenSource {
 public:
  virtual ~TokenSource() = default;
  virtual std::int64_t size() const = 0;
  virtual void read(std::int64_t begin, std::int64_t count, std::int32_t* out) const = 0;
  virtual std::string checksum() const = 0;
};

class Dataset {
 public:
  struct Part {
    std::shared_ptr<const TokenSource> tokens;
    std::vector<std::int64_t> offsets;  // of its documents, from 0 to size()
  };
  // `tokenizer` may be null where only ids are known. Labels, if any, are one per document.
  Dataset(Vocabulary vocabulary, std::shared_ptr<const Tokenizer> tokenizer, std::vector<Part> parts);
  explicit Dataset(GeneratedSamples samples);  // holds no tokens; its vocabulary's tokenizer is "task NAME"

  const Vocabulary& vocabulary() const { return vocabulary_; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  std::int64_t n_tokens() const { return offsets_.back() - offsets_.front(); }
  std::int64_t n_documents() const { return std::ssize(offsets_) - 1; }
  // Begin and end of document d, as token positions in [0, n_tokens()].
  std::int64_t document_begin(std::int64_t d) const { return offsets_[d] - offsets_.front(); }
  std::int64_t document_end(std::int64_t d) const { return document_begin(d + 1); }
  // The document that holds this position.
  std::int64_t document_at(std::int64_t position) const;
  void read(std::int64_t begin, std::int64_t count, std::int32_t* out) const;

  // Where only ids are known, the vocabulary must also cover other data's ids.
  void widen_vocabulary(std::int64_t size) { vocabulary_.size = std::max(vocabulary_.size, size); }

  // Null for a stream of tokens.
  const GeneratedSamples* generated() const { return generated_ ? &*generated_ : nullptr; }

  // Classification: the class of each document.
  void set_labels(std::vector<std::int32_t> labels, std::vector<std::string> class_names);
  const std::vector<std::int32_t>& labels() const { return labels_; }
  const std::vector<std::string>& class_names() const { return class_names_; }

  // Without and with the last documents that hold about `fraction` of the tokens; a single document is cut
  // in two. Error(data) where there is too little to split.
  std::pair<Dataset, Dataset> split_tail(double fraction) const;
  // Changes whenever the tokens, documents or labels do: a resumed run must see the one it began with.
  std::string fingerprint() const;

 private:
  Vocabulary vocabulary_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<std::shared_ptr<const TokenSource>> parts_;
  std::vector<std::int64_t> part_begins_;
  std::vector<std::int64_t> offsets_;  // absolute, across parts; a view keeps a piece of them
  std::vector<std::int32_t> labels_;
  std::vector<std::string> class_names_;
  std::optional<GeneratedSamples> generated_;
};

// Reads and encodes the text into memory.
Dataset read_text(const Sources& sources, std::shared_ptr<const Tokenizer> tokenizer);

}  // namespace filigree
