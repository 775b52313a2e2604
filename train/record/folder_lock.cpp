#include "train/record/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"

namespace filigree {

FolderLock::FolderLock(std::filesystem::path folder, const std::string& what, const std::string& key) {
  const auto fail_disk = [&](const std::string& why) {
    throw Error(ErrorKind::disk, fmt::format("cannot use the {} {}: {}", what, folder.string(), why),
                fmt::format("check {}, the permissions and the free space", key));
  };
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail_disk(error.message());
  file_ = ::open((folder / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file_ < 0) fail_disk(std::strerror(errno));
  char text[32] = {};
  if (::flock(file_, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    const ssize_t length = ::pread(file_, text, sizeof text - 1, 0);
    ::close(file_);
    if (reason != EWOULDBLOCK) fail_disk(std::strerror(reason));
    const std::string owner(text, static_cast<std::size_t>(std::max<ssize_t>(0, length)));
    throw Error(ErrorKind::usage,
                fmt::format("the {} {} is in use by process {}", what, folder.string(),
                            owner.substr(0, owner.find('\n'))),
                fmt::format("wait for it, stop it, or choose another {}", key));
  }
  const std::string pid = fmt::format("{}\n", ::getpid());
  if (::ftruncate(file_, 0) != 0 || ::pwrite(file_, pid.data(), pid.size(), 0) != std::ssize(pid)) {
    const int reason = errno;
    ::close(file_);
    fail_disk(std::strerror(reason));
  }
}

FolderLock::~FolderLock() {
  ::close(file_);
}

bool FolderLock::is_held(const std::filesystem::path& folder) {
  const int file = ::open((folder / "lock").c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool held = ::flock(file, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(file);
  return held;
}

}  // namespace filigree
