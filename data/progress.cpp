#include "data/progress.h"

#include <fmt/format.h>

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
      begin_(Clock::now()),
      line_(out, /*plain_interval=*/5) {}

Progress::~Progress() {
  if (printed_) line_.leave();
}

void Progress::update(std::int64_t done) {
  done_ = done;
  if (!line_.due()) return;
  line_.draw(status());
  printed_ = true;
}

void Progress::finish() {
  if (line_.on_terminal() || printed_) line_.finish(status());
  printed_ = false;
}

Status Progress::status() const {
  const double seconds = std::max(std::chrono::duration<double>(Clock::now() - begin_).count(), 1e-9);
  const auto done = static_cast<double>(done_), total = static_cast<double>(total_);
  const std::string rate = fmt::format("{}{}/s", human_count(done / seconds), unit_);
  if (total_ == 0)
    return {{}, {fmt::format("{} {}{}", label_, human_count(done), unit_), rate, human_duration(seconds)}};
  Status status{done / total, {fmt::format("{} {:.0f} %", label_, 100 * std::clamp(done / total, 0.0, 1.0))}};
  if (done_ >= total_)
    status.parts.push_back(human_duration(seconds));
  else if (done_ > 0)
    status.parts.push_back(fmt::format("ETA {}", human_duration((total - done) / done * seconds)));
  status.parts.push_back(rate);
  status.parts.push_back(fmt::format("{}{} of {}{}", human_count(done), unit_, human_count(total), unit_));
  return status;
}

}  // namespace filigree
