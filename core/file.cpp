#include "core/file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>

#include "core/check.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_write(const fs::path& path, const char* what, int error) {
  throw Error(ErrorKind::disk,
              fmt::format("cannot write {}: {}: {}", path.string(), what, std::strerror(error)),
              "check the free space and the permissions of the folder");
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

void fsync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_write(folder, "open", errno);
  const int error = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  if (error != 0) fail_write(folder, "fsync", error);
}

}  // namespace

AtomicFile::AtomicFile(fs::path target) : target_(std::move(target)), temporary_(target_.string() + ".tmp") {
  std::error_code ignored;
  require(!fs::exists(target_, ignored) || fs::is_regular_file(target_, ignored),
          "{} is not a regular file; it would be replaced", target_.string());
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_write(target_, "open", errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) close_and_remove();
}

void AtomicFile::close_and_remove() {
  ::close(fd_);
  fd_ = -1;
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  std::string_view rest(static_cast<const char*>(data), bytes);
  while (!rest.empty()) {
    const ssize_t written = ::write(fd_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_write(target_, "write", errno);
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
}

void AtomicFile::commit() {
  int error = ::fsync(fd_) == 0 ? 0 : errno;
  if (::close(fd_) != 0 && error == 0) error = errno;
  fd_ = -1;
  if (error != 0) {
    ::unlink(temporary_.c_str());
    fail_write(target_, "write", error);
  }
  rename_durably(temporary_, target_);
}

void write_file_atomically(const fs::path& target, std::string_view text) {
  AtomicFile file(target);
  file.write(text.data(), text.size());
  file.commit();
}

void rename_durably(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_write(to, "rename", errno);
  fsync_folder(folder_of(to));
}

std::string read_file(const fs::path& path) {
  std::error_code ignored;
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file || fs::is_directory(path, ignored))
    fail(ErrorKind::data, "{}: cannot be read: {}", path.string(), std::strerror(file ? EISDIR : errno));
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) fail(ErrorKind::data, "{}: cannot be read", path.string());
  return text;
}

std::int64_t free_bytes(const fs::path& folder) {
  struct statvfs info {};
  if (::statvfs(folder.empty() ? "." : folder.c_str(), &info) != 0)
    return std::numeric_limits<std::int64_t>::max();  // unknown: the write itself will tell
  return static_cast<std::int64_t>(info.f_bavail) * static_cast<std::int64_t>(info.f_frsize);
}

}  // namespace filigree
