#include "core/file.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
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

// The flags are open(2)'s. `written` is what an error names.
void fsync_path(const fs::path& path, int flags, const fs::path& written) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC);
  if (fd < 0) fail_write(written, "open", errno);
  const int error = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  if (error != 0) fail_write(written, "fsync", error);
}

constexpr const char* kTemporaryMark = ".tmp-";

// The number in "/dev/fd/3" and the like, 1 of /dev/stdout; -1 of other paths.
int open_file_number(const fs::path& path) {
  const std::string text = fs::absolute(path).lexically_normal().string();
  if (text == "/dev/stdout") return STDOUT_FILENO;
  if (text == "/dev/stderr") return STDERR_FILENO;
  for (const std::string_view folder : {"/dev/fd/", "/proc/self/fd/"}) {
    int number = -1;
    const char* end = text.data() + text.size();
    if (text.starts_with(folder) && std::from_chars(text.data() + folder.size(), end, number).ptr == end &&
        number >= 0)
      return number;
  }
  return -1;
}

std::string home_of(const std::string& user) {
  if (const char* home = std::getenv("HOME"); user.empty() && home && *home) return home;
  const passwd* entry = user.empty() ? ::getpwuid(::getuid()) : ::getpwnam(user.c_str());
  return entry && entry->pw_dir ? entry->pw_dir : "";
}

}  // namespace

std::string expand_home(const std::string& path) {
  if (!path.starts_with('~')) return path;
  const std::size_t end = std::min(path.find('/'), path.size());
  const std::string user = path.substr(1, end - 1), home = home_of(user);
  if (!home.empty()) return home + path.substr(end);
  std::error_code ignored;
  if (!user.empty() && fs::exists(fs::symlink_status(path, ignored))) return path;
  if (user.empty())
    throw Error(ErrorKind::usage, fmt::format("{}: this user has no home folder", path), "set HOME");
  throw Error(ErrorKind::usage, fmt::format("{}: there is no user '{}'", path, user),
              fmt::format("a name that begins with ~ is a user's home folder; ./{} is a file here", path));
}

fs::path follow_links(const fs::path& path) {
  std::error_code error;
  if (!fs::is_symlink(path, error)) return path;
  const fs::path target = fs::canonical(path, error);
  return error ? path : target;
}

bool is_stream(const fs::path& path) {
  std::error_code ignored;
  const fs::file_type type = fs::status(path, ignored).type();
  return open_file_number(path) >= 0 || type == fs::file_type::fifo || type == fs::file_type::character ||
         type == fs::file_type::socket;
}

fs::path temporary_beside(const fs::path& target) {
  static std::atomic<int> counter{0};
  return folder_of(target) /
         fmt::format(".{}{}{}-{}", target.filename().string(), kTemporaryMark, ::getpid(), counter++);
}

void remove_stale_temporaries(const fs::path& folder, const std::string& file_name) {
  std::error_code ignored;
  const std::string prefix = "." + file_name;
  for (fs::directory_iterator it(folder, ignored), end; it != end; it.increment(ignored)) {
    const std::string name = it->path().filename().string();
    const auto mark = name.rfind(kTemporaryMark);
    const bool ours = name.front() == '.' && mark != std::string::npos && mark > 0 &&
                      (file_name.empty() || name.substr(0, mark) == prefix);
    if (!ours) continue;
    const int fd = ::open(it->path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) continue;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) ::unlink(it->path().c_str());  // a live writer holds this lock
    ::close(fd);
  }
}

AtomicFile::AtomicFile(fs::path target) : target_(follow_links(target)) {
  if (is_stream(target)) {
    target_ = target;
    std::fflush(stdout);  // what was printed before comes first
    const int number = open_file_number(target);
    fd_ = number >= 0 ? ::fcntl(number, F_DUPFD_CLOEXEC, 0) : ::open(target.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    std::error_code ignored;
    require(!fs::exists(target_, ignored) || fs::is_regular_file(target_, ignored),
            "{} is not a regular file; it would be replaced", target_.string());
    remove_stale_temporaries(folder_of(target_), target_.filename().string());
    temporary_.emplace(temporary_beside(target_));
    fd_ = ::open(temporary_->path().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ >= 0) ::flock(fd_, LOCK_EX | LOCK_NB);
  }
  if (fd_ < 0) fail_write(target_, "open", errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) close_and_remove();
}

void AtomicFile::close_and_remove() {
  ::close(fd_);
  fd_ = -1;
  if (temporary_) ::unlink(temporary_->path().c_str());
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  std::string_view rest(static_cast<const char*>(data), bytes);
  while (!rest.empty()) {
    const ssize_t written = ::write(fd_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_write(target_, "write", errno);
    rest.remove_prefix(written);
  }
}

void AtomicFile::commit() {
  const int error = ::close(fd_) == 0 ? 0 : errno;
  fd_ = -1;
  if (error != 0) {
    if (temporary_) ::unlink(temporary_->path().c_str());
    fail_write(target_, "write", error);
  }
  if (temporary_) publish(temporary_->path(), target_);
  temporary_.reset();
}

void write_file_atomically(const fs::path& target, std::string_view text) {
  AtomicFile file(target);
  file.write(text.data(), text.size());
  file.commit();
}

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

void publish(const fs::path& temporary, const fs::path& target) {
  try {
    fsync_path(temporary, O_RDWR, target);
    rename_durably(temporary, target);
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void rename_durably(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_write(to, "rename", errno);
  const fs::path folder = folder_of(to);
  fsync_path(folder, O_RDONLY | O_DIRECTORY, folder);
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
  std::error_code error;
  fs::path there = fs::absolute(folder, error);
  while (!fs::exists(there, error) && there.has_relative_path()) there = there.parent_path();
  struct statvfs info {};
  if (::statvfs(there.c_str(), &info) != 0)
    return std::numeric_limits<std::int64_t>::max();  // unknown: the write itself will tell
  return static_cast<std::int64_t>(info.f_bavail) * static_cast<std::int64_t>(info.f_frsize);
}

std::int64_t max_file_bytes() {
  constexpr auto kUnlimited = std::numeric_limits<std::int64_t>::max();
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur >= static_cast<rlim_t>(kUnlimited))
    return kUnlimited;
  return static_cast<std::int64_t>(limit.rlim_cur);
}

void require_room(const fs::path& folder, const std::string& what, std::int64_t bytes, std::int64_t largest,
                  const std::string& hint) {
  const auto mb = [](std::int64_t n) { return fmt::format("{:.1f} MB", static_cast<double>(n) / 1e6); };
  if (const std::int64_t free = free_bytes(folder); free < bytes)
    throw Error(ErrorKind::disk,
                fmt::format("no room for {}: it needs {}, the disk has {} left", what, mb(bytes), mb(free)),
                hint);
  if (largest == 0) largest = bytes;
  if (const std::int64_t most = max_file_bytes(); most < largest)
    throw Error(ErrorKind::disk,
                fmt::format("no room for {}: a file of it takes {}, but none may be larger than {} here",
                            what, mb(largest), mb(most)),
                "raise the limit: ulimit -f unlimited");
}

}  // namespace filigree
