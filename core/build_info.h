// What this binary is made of, for checkpoints and `filigree doctor`.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace filigree {

std::string version();  // "0.1.0"

// Name and version of each library as loaded at run time, e.g. {"oneDNN", "2.6.3"}.
std::vector<std::pair<std::string, std::string>> library_versions();

// Sustained f32 matrix-product rate of this machine in FLOP/s, on all threads: what MFU is a fraction of.
// Takes about 50 ms.
double measure_peak_flops();

// Of this process, in bytes, from /proc: the resident set now and at its peak; and what the system has left.
std::int64_t resident_bytes();
std::int64_t peak_resident_bytes();
std::int64_t available_bytes();

}  // namespace filigree
