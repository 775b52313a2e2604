// Small files written so that a crash leaves the old one or the new one, never half of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace filigree {

// A file written piece by piece to a temporary one in the same folder; commit() syncs and renames it, then
// syncs the folder. Without commit() the temporary file is removed and the target is untouched. Error(disk)
// on failure.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t bytes);
  void commit();  // after this the file is done

 private:
  void close_and_remove();

  std::filesystem::path target_, temporary_;
  int fd_;
};

// A whole AtomicFile at once.
void write_file_atomically(const std::filesystem::path& target, std::string_view text);

// rename(2), then fsync of the folder. Error(disk) on failure.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

// The whole file; Error(data) naming it if it cannot be read.
std::string read_file(const std::filesystem::path& path);

// What an ordinary user may still write to the file system that holds `folder`.
std::int64_t free_bytes(const std::filesystem::path& folder);

}  // namespace filigree
