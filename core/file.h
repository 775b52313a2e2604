// Files: their names, and writing them so that a crash leaves the old one or the new one, never half of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "core/unfinished.h"

namespace filigree {

// A path as people write it: "~" and "~/x" begin at the user's home folder, "~name/x" at another user's,
// unless a file of that very name is there. Every path that a config, a sweep or the command line names goes
// through here. Error(usage) where there is no such user.
std::string expand_home(const std::string& path);

// The file that a path written to reaches: links are followed, so that a link stays one.
std::filesystem::path follow_links(const std::filesystem::path& path);

// True for what is written to as it is, without a temporary file: pipes, devices and the process's own open
// files (/dev/stdout, /dev/fd/3).
bool is_stream(const std::filesystem::path& path);

// A new name beside `target`, ".<name>.tmp-<pid>-<n>": hidden, unique, and on the same file system, so that a
// rename is atomic. Writers hold an flock on the file while they live.
std::filesystem::path temporary_beside(const std::filesystem::path& target);

// Removes the temporary files that killed writers left in `folder`, all of them or those of one file. Files
// of writers that live, here or in another process, are left alone.
void remove_stale_temporaries(const std::filesystem::path& folder, const std::string& file_name = "");

// A file written piece by piece to a temporary one in the same folder; commit() syncs and renames it, then
// syncs the folder. Without commit() the temporary file is removed and the target is untouched. A stream is
// written to as it is. Error(disk) on failure.
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

  std::filesystem::path target_;
  std::optional<Unfinished> temporary_;  // none of a stream
  int fd_ = -1;
};

// A whole AtomicFile at once.
void write_file_atomically(const std::filesystem::path& target, std::string_view text);

// The end of writing a file in another way: the temporary file, which is closed, reaches the disk and takes
// the place of `target`. Error(disk) on failure, and then the temporary file is gone.
void publish(const std::filesystem::path& temporary, const std::filesystem::path& target);

// "." of a file without a folder in its name.
std::filesystem::path folder_of(const std::filesystem::path& file);

// rename(2), then fsync of the folder. Error(disk) on failure.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

// The whole file; Error(data) naming it if it cannot be read.
std::string read_file(const std::filesystem::path& path);

// The bytes that an ordinary user may still write to the file system that holds `folder` or will hold it.
std::int64_t free_bytes(const std::filesystem::path& folder);

// How large a file may become (`ulimit -f`).
std::int64_t max_file_bytes();

// Error(disk) with both figures unless the file system of `folder` has room for `bytes`, of which the largest
// file takes `largest` (0: all of it). `what` is to be written, "the checkpoint x.h5".
void require_room(const std::filesystem::path& folder, const std::string& what, std::int64_t bytes,
                  std::int64_t largest, const std::string& hint);

}  // namespace filigree
