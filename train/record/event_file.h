// TensorBoard event files, written by hand. A file is a sequence of records
//
//   u64 length | u32 masked crc32c of the length | the bytes | u32 masked crc32c of the bytes
//
// (little-endian; TensorFlow's TFRecord), each one a serialized tensorflow.Event: wall_time (field 1,
// double), step (2, int64), and one of file_version (3, string), summary (5) or session_log (7). Of a summary
// only scalars are written: value (1) { tag (1, string), simple_value (2, float) }.
//
// Every start of a run writes a file of its own. In a resumed one a session_log of status START comes first,
// with the step that is run next: readers then drop what older files say of that step and later ones.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "train/record/append_file.h"

namespace filigree {

// CRC-32C (Castagnoli, RFC 3720 appendix B.4), and as records store it: rotated right by 15 bits, plus a
// constant, so that a sum of data that holds sums stays a good one.
std::uint32_t crc32c(std::string_view bytes);
std::uint32_t masked_crc32c(std::string_view bytes);

// A record of these bytes.
std::string framed(std::string_view bytes);

inline constexpr std::string_view kEventFilePrefix = "events.out.tfevents.";

class EventFile {
 public:
  using Scalars = std::initializer_list<std::pair<std::string_view, double>>;

  // Makes a new file in `folder`, and the folder if need be. `resumed_step`: steps that were done before;
  // steps count from 1. Error(disk) on failure, here and below.
  EventFile(const std::filesystem::path& folder, std::int64_t resumed_step);

  // One event with these values, written at once.
  void append(std::int64_t step, Scalars scalars);

 private:
  void write(std::int64_t step, std::string_view field);

  AppendFile file_;
};

}  // namespace filigree
