#include "core/status_line.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/utf8.h"

namespace filigree {
namespace {

constexpr std::int64_t kBar = 30, kLeastBar = 8;  // columns
constexpr auto kTerminalInterval = std::chrono::milliseconds(100);

std::atomic<bool> lost{false};

std::int64_t character_columns(char32_t code) {
  // East Asian scripts and pictures take two; combining marks none.
  constexpr struct {
    char32_t first, last;
    int columns;
  } kRanges[] = {{0x300, 0x36F, 0},   {0x200B, 0x200F, 0}, {0xFE00, 0xFE0F, 0},   {0x1100, 0x115F, 2},
                 {0x2E80, 0xA4CF, 2}, {0xAC00, 0xD7A3, 2}, {0xF900, 0xFAFF, 2},   {0xFE30, 0xFE6F, 2},
                 {0xFF00, 0xFF60, 2}, {0xFFE0, 0xFFE6, 2}, {0x1F300, 0x1FAFF, 2}, {0x20000, 0x3FFFD, 2}};
  for (const auto& range : kRanges)
    if (code >= range.first && code <= range.last) return range.columns;
  return 1;
}

// As much of the text as fits.
std::string first_columns(std::string_view text, std::int64_t columns) {
  std::size_t end = 0;
  for (std::int64_t used = 0; end < text.size();) {
    const auto [code_point, n_bytes] = decode_utf8(text, end);
    used += character_columns(code_point);
    if (used > columns) break;
    end += n_bytes;
  }
  return std::string(text.substr(0, end));
}

std::string bar_text(double share, std::int64_t columns) {
  const auto filled = static_cast<std::int64_t>(std::clamp(share, 0.0, 1.0) * static_cast<double>(columns));
  std::string bar;
  for (std::int64_t i = 0; i < columns; ++i) bar += i < filled ? "█" : "░";
  return bar + ' ';
}

// Without the last column, after which terminals differ in where they write next.
std::int64_t free_columns(std::FILE* out) {
  constexpr std::int64_t kUnknown = 80;
  winsize size{};
  const bool known = ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return std::max<std::int64_t>(1, (known ? size.ws_col : kUnknown) - 1);
}

}  // namespace

void say(std::FILE* out, const std::string& text) {
  if (!std::ferror(out) && std::fputs(text.c_str(), out) >= 0 && std::fflush(out) == 0) return;
  if (out == stdout) lost = true;
  if (out != stderr) std::fputs(text.c_str(), stderr);
}

bool output_lost() {
  return lost;
}

std::int64_t text_columns(std::string_view text) {
  std::int64_t columns = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto [code_point, n_bytes] = decode_utf8(text, at);
    columns += character_columns(code_point);
    at += n_bytes;
  }
  return columns;
}

std::string status_text(const Status& status, std::int64_t columns) {
  constexpr std::string_view kBetween = " | ", kCut = "..";
  std::string text;
  for (const std::string& part : status.parts) {
    const std::string longer = text.empty() ? part : fmt::format("{}{}{}", text, kBetween, part);
    if (text_columns(longer) > columns) {
      if (!text.empty()) break;
      const std::int64_t left = columns - std::ssize(kCut);
      return left > 0 ? first_columns(part, left).append(kCut) : first_columns(part, columns);
    }
    text = longer;
  }
  const std::int64_t left = columns - text_columns(text) - 1;
  return status.share && left >= kLeastBar ? bar_text(*status.share, std::min(left, kBar)) + text : text;
}

StatusLine::StatusLine(std::FILE* out, double plain_interval)
    : out_(out),
      terminal_(::isatty(::fileno(out)) != 0),
      interval_(terminal_ ? Clock::duration(kTerminalInterval)
                          : std::chrono::duration_cast<Clock::duration>(
                                std::chrono::duration<double>(plain_interval))) {
  if (!terminal_) last_ = Clock::now();  // what is short prints nothing
}

StatusLine::~StatusLine() {
  erase();
}

bool StatusLine::due() const {
  if (interval_ <= Clock::duration::zero()) return false;
  return !last_ || Clock::now() - *last_ >= interval_;
}

void StatusLine::draw(const Status& status) {
  if (!due()) return;
  print(status);
  last_ = Clock::now();
}

void StatusLine::print(const Status& status) {
  if (terminal_) {  // back to the line's begin, and what the last text has more is erased
    say(out_, fmt::format("\r{}\x1b[K", status_text(status, free_columns(out_))));
    drawn_ = true;
  } else {
    say(out_, fmt::format("{}\n", fmt::join(status.parts, " | ")));
  }
}

void StatusLine::erase() {
  if (!drawn_) return;
  say(out_, "\r\x1b[K");
  drawn_ = false;
}

void StatusLine::note(const std::string& text) {
  erase();
  say(out_, text + "\n");
}

void StatusLine::leave() {
  if (!terminal_) return;
  say(out_, "\n");
  drawn_ = false;
}

void StatusLine::finish(const Status& status) {
  print(status);
  if (drawn_) leave();
}

}  // namespace filigree
