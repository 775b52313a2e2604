// One run as a process of its own, so that whatever ends it ends nothing else.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace filigree {

// This very binary.
std::filesystem::path own_binary();

inline constexpr std::chrono::milliseconds kPoll{50};  // between two looks at a child

class Child {
 public:
  // Starts `arguments` with its output at the end of `log`. It is out of reach of the terminal's Ctrl-C, and
  // gets SIGTERM when this process dies. Error(disk) if it cannot be started.
  Child(std::vector<std::string> arguments, const std::filesystem::path& log);
  ~Child();  // ends the child if it is still there
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // The exit code once it has ended; 128 + the signal's number if one ended it.
  std::optional<int> poll();
  void stop() const;                                     // SIGTERM: a run saves and ends with 75
  std::int64_t log_begin() const { return log_begin_; }  // the log's size when it started

 private:
  pid_t pid_;
  std::int64_t log_begin_;
  std::optional<int> exit_code_;
};

// The last words of a failed run: its error line and hint, or what its exit code means. `begin` is the log's
// size when it started.
std::string last_error(const std::filesystem::path& log, std::int64_t begin, int exit_code);

}  // namespace filigree
