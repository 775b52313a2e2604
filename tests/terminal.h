// A terminal of a given width, and what was written to it.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/status_line.h"

namespace filigree {

class Terminal {
 public:
  explicit Terminal(unsigned short columns) : master_(::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK)) {
    ::grantpt(master_);
    ::unlockpt(master_);
    slave_ = ::open(::ptsname(master_), O_RDWR | O_NOCTTY);
    termios mode{};
    ::tcgetattr(slave_, &mode);
    mode.c_oflag &= ~static_cast<tcflag_t>(OPOST);  // newlines stay what they are
    ::tcsetattr(slave_, TCSANOW, &mode);
    resize(columns);
  }
  ~Terminal() {
    ::close(slave_);
    ::close(master_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  int slave() const { return slave_; }
  void resize(unsigned short columns) const {
    winsize size{};
    size.ws_row = 24;
    size.ws_col = columns;
    ::ioctl(slave_, TIOCSWINSZ, &size);
  }
  // What has come since the last call.
  std::string read() const {
    std::string text;
    char buffer[4096];
    for (ssize_t n = 0; (n = ::read(master_, buffer, sizeof buffer)) > 0;)
      text.append(buffer, static_cast<std::size_t>(n));
    return text;
  }

 private:
  int master_, slave_ = -1;
};

inline constexpr std::string_view kErase = "\x1b[K";  // to the end of the line

// The texts that were drawn over one another in place: "\r<text>\x1b[K".
inline std::vector<std::string> redraws(const std::string& output) {
  std::vector<std::string> texts;
  for (std::size_t begin = output.find('\r'); begin != output.npos; begin = output.find('\r', begin + 1)) {
    const std::size_t end = output.find(kErase, begin);
    if (end == output.npos) break;
    texts.push_back(output.substr(begin + 1, end - begin - 1));
  }
  std::erase(texts, "");
  return texts;
}

inline std::int64_t widest(const std::vector<std::string>& texts) {
  std::int64_t columns = 0;
  for (const std::string& text : texts) columns = std::max(columns, text_columns(text));
  return columns;
}

}  // namespace filigree
