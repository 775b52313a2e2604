// A file of a run that only grows: a metrics.jsonl, TensorBoard's events.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace filigree {

class AppendFile {
 public:
  // Made if it is not there; `kept` bytes of it stay. Error(disk) on failure, here and below.
  AppendFile(std::filesystem::path path, std::int64_t kept);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  // Written at once. `hint`: of the error, if the disk is full.
  void append(std::string_view bytes, const char* hint);

 private:
  std::filesystem::path path_;
  int file_;
};

}  // namespace filigree
