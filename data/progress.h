// How far a command with one amount of work is, and how long it will still take.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

#include "core/status_line.h"

namespace filigree {

class Progress {
 public:
  // `total` and `done` count `unit`s, printed with k, M, G; total 0 means unknown.
  Progress(std::string label, std::int64_t total, std::string unit, std::FILE* out = stderr);
  ~Progress();  // leaves the terminal on a fresh line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(std::int64_t done);  // prints at most every 0.1 s on a terminal, every 5 s elsewhere
  void finish();                   // the last line, with the mean rate; none elsewhere for short work

 private:
  using Clock = std::chrono::steady_clock;
  Status status() const;

  std::string label_, unit_;
  std::int64_t total_ = 0, done_ = 0;
  bool printed_ = false;
  Clock::time_point begin_;
  StatusLine line_;
};

std::string human_count(double value);       // "512", "1.2 k", "34.5 M"
std::string human_duration(double seconds);  // "0:07", "12:05", "3:04:05"

}  // namespace filigree
