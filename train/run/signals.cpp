#include "train/run/signals.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <array>

#include "core/status_line.h"
#include "core/unfinished.h"

namespace filigree {
namespace {

volatile sig_atomic_t stop_requested = 0;  // signal handlers can reach nothing but globals
timespec first_signal{};

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
std::array<struct sigaction, kSignals.size()> before;

// timeout(1) and terminals signal a process and its group: one wish may arrive twice within microseconds.
bool same_wish() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (now.tv_sec - first_signal.tv_sec) * 1000 + (now.tv_nsec - first_signal.tv_nsec) / 1000000 < 50;
}

void on_signal(int signal) {
  if (stop_requested && !same_wish()) {
    remove_unfinished();
    _exit(128 + signal);
  }
  if (!stop_requested) clock_gettime(CLOCK_MONOTONIC, &first_signal);
  stop_requested = 1;
}

}  // namespace

StopSignals::StopSignals() {
  stop_requested = 0;
  struct sigaction action {};
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    sigaction(kSignals[i], nullptr, &before[i]);
    if (kSignals[i] == SIGHUP && before[i].sa_handler == SIG_IGN) continue;
    action.sa_handler = kSignals[i] == SIGPIPE ? SIG_IGN : on_signal;  // output_lost() tells
    sigaction(kSignals[i], &action, nullptr);
  }
}
StopSignals::~StopSignals() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before[i], nullptr);
}
bool StopSignals::requested() {
  return stop_requested != 0 || output_lost();
}

}  // namespace filigree
