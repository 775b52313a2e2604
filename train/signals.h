// SIGINT and SIGTERM: the first asks the trainer to save and stop, a second one ends the process at once.
#pragma once

namespace filigree {

inline constexpr int kExitResumable = 75;  // EX_TEMPFAIL: stopped by a signal, resumable

// Catches both signals while it lives.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  static bool requested();
};

}  // namespace filigree
