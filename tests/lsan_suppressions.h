// LeakSanitizer: libhdf5 1.10 leaks when a damaged file is refused or a write fails. Include this in one file
// of a test program that tries such files.
#pragma once

extern "C" const char* __lsan_default_suppressions() {
  return "leak:libhdf5\n";
}
