#include "data/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace filigree {

std::string human_count(double value) {
  constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T"};
  int prefix = 0;
  while (std::abs(value) >= 999.95 && prefix < 4) {
    value /= 1000;
    ++prefix;
  }
  return prefix == 0 ? fmt::format("{:.0f}", value) : fmt::format("{:.1f} {}", value, kPrefixes[prefix]);
}

std::string human_duration(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  const std::int64_t h = whole / 3600, m = whole / 60 % 60, s = whole % 60;
  return h > 0 ? fmt::format("{}:{:02}:{:02}", h, m, s) : fmt::format("{}:{:02}", m, s);
}

Progress::Progress(std::string label, std::int64_t total, std::string unit, std::FILE* out)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      out_(out),
      terminal_(::isatty(::fileno(out)) != 0),
      begin_(Clock::now()),
      last_(begin_) {}

Progress::~Progress() {
  if (open_line_) std::fputc('\n', out_);
}

void Progress::update(std::int64_t done) {
  done_ = done;
  const auto now = Clock::now();
  if (now - last_ < (terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000))) return;
  last_ = now;
  print(std::chrono::duration<double>(now - begin_).count());
}

void Progress::finish() {
  const auto now = Clock::now();
  if (terminal_ || last_ != begin_) print(std::chrono::duration<double>(now - begin_).count());
  if (open_line_) std::fputc('\n', out_);
  open_line_ = false;
  last_ = begin_;
}

void Progress::print(double seconds) {
  const auto done = static_cast<double>(done_), total = static_cast<double>(total_);
  const double rate = done / std::max(seconds, 1e-9);
  std::string line = label_;
  if (total_ > 0) {
    const double part = std::clamp(done / total, 0.0, 1.0);
    if (terminal_) {
      constexpr int kWidth = 24;
      const auto filled = static_cast<std::size_t>(part * kWidth);
      line += fmt::format(" [{}{}]", std::string(filled, '#'), std::string(kWidth - filled, '.'));
    }
    line += fmt::format(" {:3.0f} %  {}{} of {}{}", 100 * part, human_count(done), unit_, human_count(total),
                        unit_);
    if (done_ < total_ && done_ > 0) line += fmt::format("  ETA {}", human_duration((total - done) / rate));
  } else {
    line += fmt::format(" {}{}", human_count(done), unit_);
  }
  line += fmt::format("  {}{}/s  {}", human_count(rate), unit_, human_duration(seconds));
  // \r and "erase to the end of the line" redraw the bar in place.
  fmt::print(out_, "{}{}{}", terminal_ ? "\r" : "", line, terminal_ ? "\x1b[K" : "\n");
  std::fflush(out_);
  open_line_ = terminal_;
}

}  // namespace filigree
