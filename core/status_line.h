// The line that says how far something is: redrawn in place on a terminal, however wide it is at that moment;
// elsewhere plain lines now and then, or none.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace filigree {

struct Status {
  std::optional<double> share;     // of the work that is done, drawn as a bar if there are columns left
  std::vector<std::string> parts;  // the most important first; what does not fit is left out from the end
};

// Columns of UTF-8 text on a terminal.
std::int64_t text_columns(std::string_view text);
// At most `columns` columns, which are one or more.
std::string status_text(const Status& status, std::int64_t columns);

// Prints and flushes. Where the terminal or the reader of the pipe is gone nothing fails: what is left to say
// goes to stderr, and output_lost() is true from then on.
void say(std::FILE* out, const std::string& text);
bool output_lost();

class StatusLine {
 public:
  using Clock = std::chrono::steady_clock;

  // Seconds between two plain lines where `out` is no terminal; 0: none are printed.
  explicit StatusLine(std::FILE* out = stdout, double plain_interval = 0);
  ~StatusLine();  // erases the line
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  bool on_terminal() const { return terminal_; }
  // True if draw() would draw now: 0.1 s after the last time on a terminal.
  bool due() const;
  void draw(const Status& status);  // if it is due
  void erase();
  // A line of its own, above the status.
  void note(const std::string& text);
  // The status stays, and what comes next begins on a fresh line: before a message that something was
  // interrupted, whose ^C the terminal has printed.
  void leave();
  // The same as note() for the status itself, a last time.
  void finish(const Status& status);

 private:
  void print(const Status& status);

  std::FILE* out_;
  bool terminal_, drawn_ = false;
  Clock::duration interval_;
  std::optional<Clock::time_point> last_;
};

}  // namespace filigree
