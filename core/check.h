// Errors. A user's mistake throws filigree::Error, which says what is wrong, where, and what to do.
// A mistake of ours fails `check`, which throws std::logic_error with the source position.
#pragma once

#include <fmt/format.h>

#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace filigree {

// The kind of an error; its value is the process's exit code.
enum class ErrorKind : int { usage = 2, data = 3, numeric = 4, disk = 5, out_of_memory = 6 };

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message, std::string hint = "")
      : std::runtime_error(message), kind_(kind), hint_(std::move(hint)) {}

  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }
  // One line that tells what to do about it; may be empty.
  const std::string& hint() const { return hint_; }

 private:
  ErrorKind kind_;
  std::string hint_;
};

template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

// Throws Error(usage) unless `ok`. For what a caller of the library can get wrong, such as shapes; the
// message starts with the operation: require(a == b, "[matmul] ...", ...).
template <class... Args>
void require(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) [[unlikely]]
    fail(ErrorKind::usage, format, std::forward<Args>(args)...);
}

// Throws std::logic_error unless `ok`. For what only a bug in filigree can break.
inline void check(bool ok, std::string_view what,
                  std::source_location where = std::source_location::current()) {
  if (!ok) [[unlikely]]
    throw std::logic_error(fmt::format("internal error at {}:{}: {}", where.file_name(), where.line(), what));
}

}  // namespace filigree
