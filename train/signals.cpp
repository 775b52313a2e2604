#include "train/signals.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

namespace filigree {
namespace {

volatile sig_atomic_t stop_requested = 0;  // signal handlers can reach nothing but globals
timespec first_signal{};

// timeout(1) and terminals signal a process and its group: one wish may arrive twice within microseconds.
bool same_wish() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (now.tv_sec - first_signal.tv_sec) * 1000 + (now.tv_nsec - first_signal.tv_nsec) / 1000000 < 50;
}

void on_signal(int signal) {
  if (stop_requested && !same_wish()) _exit(128 + signal);
  if (!stop_requested) clock_gettime(CLOCK_MONOTONIC, &first_signal);
  stop_requested = 1;
}

void install(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

StopSignals::StopSignals() {
  stop_requested = 0;
  install(on_signal);
}
StopSignals::~StopSignals() {
  install(SIG_DFL);
}
bool StopSignals::requested() {
  return stop_requested != 0;
}

}  // namespace filigree
