#include "train/signals.h"

#include <signal.h>
#include <unistd.h>

namespace filigree {
namespace {

volatile sig_atomic_t stop_requested = 0;  // signal handlers can reach nothing but a global

void on_signal(int signal) {
  if (stop_requested) _exit(128 + signal);
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
