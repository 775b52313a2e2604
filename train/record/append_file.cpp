#include "train/record/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/check.h"

namespace filigree {

AppendFile::AppendFile(std::filesystem::path path, std::int64_t kept) : path_(std::move(path)) {
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0 || ::ftruncate(file_, kept) != 0) {
    const int error = errno;
    if (file_ >= 0) ::close(file_);
    fail(ErrorKind::disk, "cannot write {}: {}", path_.string(), std::strerror(error));
  }
}

AppendFile::~AppendFile() {
  ::close(file_);
}

void AppendFile::append(std::string_view bytes, const char* hint) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0)
      throw Error(ErrorKind::disk, fmt::format("cannot write {}: {}", path_.string(), std::strerror(errno)),
                  hint);
    bytes.remove_prefix(written);
  }
}

}  // namespace filigree
