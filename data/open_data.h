// Opens what a config names as training and validation data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/sources.h"

namespace filigree {

struct DataRequest {
  std::optional<GeneratedData> task = {};    // in place of all that is read; of the below only seed counts
  std::int64_t seq_len = 0;                  // of the task's samples
  std::vector<std::string> train = {};       // files, folders, globs; may start with ~
  std::vector<std::string> validation = {};  // empty: split off from `train`
  double val_fraction = 0.05;                // 0: no validation
  InputFormat format = InputFormat::automatic;
  // auto: byte for text, and what files of tokens know themselves; byte, bpe:FILE (make_tokenizer); beside
  // files of tokens also as tokenizer_word. There it must be theirs.
  std::string tokenizer = "auto";
  std::shared_ptr<const Tokenizer> trained_with = nullptr;  // a model's own, used instead where it is given
  std::uint64_t seed = 1;                                   // of the split by file, or of the task's samples
  bool classes = false;                                     // a folder per class
  std::vector<std::string> known_classes = {};  // a model's own, by label; empty: those of `train`
};

struct OpenedData {
  Dataset train;
  std::optional<Dataset> validation;
  std::vector<std::string> notes;  // for the user: what was read, skipped and split
  std::string tokenizer = "";      // as a config records it: of text as requested, else tokenizer_word
};

// Above these sizes of `tokens`, in bytes, an HDF5 file is read in slices as they are needed, and its
// checksum is not compared when it is opened (that of its offsets always is; `filigree inspect` verifies
// all).
struct OpenLimits {
  std::int64_t in_memory = std::int64_t{1} << 30;
  std::int64_t verified = std::int64_t{4} << 30;
};

// All of the inputs as one dataset. `automatic` goes by content: HDF5 files by their signature, .bin by name,
// all else is text; kinds cannot be mixed. `tokenizer` (make_tokenizer) is for text.
Dataset open_dataset(const std::vector<std::string>& inputs, InputFormat format = InputFormat::automatic,
                     const std::string& tokenizer = "byte", std::vector<std::string>* notes = nullptr,
                     const OpenLimits& limits = {});

// Text is split by file (split_sources), token files and .bin by their last documents. Classes: one input is
// a folder of class folders, several inputs are the class folders; the split is made within each class.
// Labels count the sorted names of the training data's folders or, where a model's classes are known, are
// theirs. Data may lack some of the classes; a folder of another name is Error(data), and so are different
// vocabularies of validation and training data.
OpenedData open_data(const DataRequest& request);

// The name of the tokenizer that open_data would use, as tokenizer_word, from the first file's header.
// Error(usage) if the request names another one than the files of tokens have; Error as of make_tokenizer.
std::string find_tokenizer(const DataRequest& request);

}  // namespace filigree
