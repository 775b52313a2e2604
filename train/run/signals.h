// SIGINT, SIGTERM and SIGHUP (a closed terminal): the first asks the trainer to save and stop, a second one
// ends the process at once. SIGHUP is left alone where it was ignored at the start, as under nohup.
#pragma once

namespace filigree {

inline constexpr int kExitResumable = 75;  // EX_TEMPFAIL: stopped by a signal, resumable

// Catches the signals while it lives.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  static bool requested();  // also where nobody reads what is printed any more (output_lost)
};

}  // namespace filigree
