#pragma once

#include <cstdint>

namespace filigree {

// All in bytes, from /proc: this process's resident set now and at its peak, and the memory that the system
// has left.
std::int64_t resident_bytes();
std::int64_t peak_resident_bytes();
// Gives back what the heap holds free; the peak begins anew from there, where the system allows it.
void reset_peak_resident_bytes();
std::int64_t available_bytes();

}  // namespace filigree
