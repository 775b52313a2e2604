// The logits of an evaluation as an HDF5 file, for other programs:
//
//   tokens   i32 [S, N]      what the model read; 0 beyond a sequence's end
//   targets  i32 [S, N]      -100 where none; classifier [S]
//   logits   f32 [S, N, V]   classifier [S, classes]
//   classes                  classifier: the names of its classes in this order, a JSON list
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/loader.h"

namespace filigree {

class LogitsFile {
 public:
  // Room for S sequences of N tokens, with logits of this shape each ([N, V] or [classes]). All is held in
  // memory until commit(): Error(out_of_memory) or Error(disk), with the size, where there is no room.
  LogitsFile(const std::filesystem::path& path, std::int64_t sequences, std::int64_t seq_len,
             const Shape& logits_shape);

  void add(const Batch& batch, const Tensor& logits);  // f32 on the CPU
  // Writes the file, whole or not at all. `classes`: of a classifier.
  void commit(const std::vector<std::string>& classes);
  std::string describe() const;

 private:
  std::filesystem::path path_;
  std::int64_t done_ = 0;  // sequences
  Tensor tokens_, targets_, logits_;
};

}  // namespace filigree
