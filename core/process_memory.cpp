#include "core/process_memory.h"

#include <malloc.h>

#include <fstream>
#include <string>

namespace filigree {
namespace {

// The value of "Name:   123 kB" in a /proc file, in bytes; 0 if absent.
std::int64_t proc_field(const char* file, const std::string& name) {
  std::ifstream in(file);
  for (std::string word; in >> word;) {
    std::int64_t kib = 0;
    if (word == name && in >> kib) return kib * 1024;
  }
  return 0;
}

}  // namespace

std::int64_t resident_bytes() {
  return proc_field("/proc/self/status", "VmRSS:");
}
std::int64_t peak_resident_bytes() {
  return proc_field("/proc/self/status", "VmHWM:");
}
void reset_peak_resident_bytes() {
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << 5;  // proc(5): resets VmHWM
}
std::int64_t available_bytes() {
  return proc_field("/proc/meminfo", "MemAvailable:");
}

}  // namespace filigree
