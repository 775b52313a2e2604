// A folder that one process uses at a time: `lock` in it is flock'ed and holds the PID. The lock goes with
// the process, however that ends.
#pragma once

#include <filesystem>
#include <string>

namespace filigree {

class FolderLock {
 public:
  // Makes the folder if need be. `what` ("run folder") and `key` ("train.out") are for messages. Error(usage)
  // if another process holds it, Error(disk) if it cannot be used.
  FolderLock(std::filesystem::path folder, const std::string& what, const std::string& key);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  // True if a process holds it now; false where there is no such folder.
  static bool is_held(const std::filesystem::path& folder);

 private:
  int file_;
};

}  // namespace filigree
