#include "train/ablate/child.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>

#include "core/check.h"
#include "core/file.h"
#include "train/run/signals.h"

namespace filigree {

std::filesystem::path own_binary() {
  return std::filesystem::read_symlink("/proc/self/exe");
}

Child::Child(std::vector<std::string> arguments, const std::filesystem::path& log) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const int out = ::open(log.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0666);
  if (out < 0) fail(ErrorKind::disk, "cannot write {}: {}", log.string(), ::strerror(errno));
  log_begin_ = ::lseek(out, 0, SEEK_END);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) {  // nothing but system calls from here on: other threads' locks were copied as they were
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(kExitResumable);
    const int none = ::open("/dev/null", O_RDONLY);
    ::dup2(none, STDIN_FILENO);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  const int error = errno;
  ::close(out);
  if (pid_ < 0) fail(ErrorKind::disk, "cannot start {}: {}", arguments.front(), ::strerror(error));
}

Child::~Child() {
  if (exit_code_) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

std::optional<int> Child::poll() {
  int status = 0;
  if (!exit_code_ && ::waitpid(pid_, &status, WNOHANG) == pid_)
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return exit_code_;
}

void Child::stop() const {
  if (!exit_code_) ::kill(pid_, SIGTERM);
}

std::string last_error(const std::filesystem::path& log, std::int64_t begin, int exit_code) {
  std::istringstream lines(read_file(log).substr(begin));
  std::string message, hint;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("filigree: ")) {
      message = line.substr(10);
      hint.clear();
    }
    if (line.starts_with("  hint: ")) hint = line.substr(2);
  }
  if (exit_code == kExitResumable) return "stopped by a signal; the same command goes on with it";
  if (exit_code == 128 + SIGKILL)
    return "killed (signal 9); if that was not you, the system was out of memory: see dmesg";
  if (exit_code > 128)
    return fmt::format("ended by signal {} ({})", exit_code - 128, ::strsignal(exit_code - 128));
  if (message.empty()) return fmt::format("ended with exit code {}", exit_code);
  return hint.empty() ? message : fmt::format("{} ({})", message, hint);
}

}  // namespace filigree
