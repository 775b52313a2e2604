// What this binary is made of and where it runs, for run.json, `filigree --version` and `filigree doctor`.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace filigree {

std::string version();  // "0.1.0"
// The git commit of the sources, as they were when they were built: "3fa0e19c2b", "3fa0e19c2b-dirty" where
// files had been changed since, "unknown" outside git. And how: "Release, GNU 12.2.0, no CUDA". See
// core/commit.cmake.
std::string commit();
std::string build();

// "Intel(R) Xeon(R) Platinum 8480+"; of a GPU what cuda_description() says.
std::string device_name(Device device);
std::string host_name();

// Name and version of each library as loaded at run time, e.g. {"oneDNN", "2.6.3"}.
std::vector<std::pair<std::string, std::string>> library_versions();

// The best rate of several large matrix products on this device and in this dtype, in FLOP/s. Takes some 0.2
// s.
double measure_matrix_rate(Device device, DType dtype);

// Why CUDA cannot be used here; empty if it can. And the GPU, if so.
std::string cuda_unavailable();
std::string cuda_description();  // "NVIDIA H100 80GB HBM3, compute capability 9.0, 79.2 GiB"
std::int64_t free_cuda_bytes();

// Of this process, in bytes, from /proc: the resident set now and at its peak; and what the system has left.
std::int64_t resident_bytes();
std::int64_t peak_resident_bytes();
// Gives back what the heap holds free; the peak begins anew from there, where the system allows it.
void reset_peak_resident_bytes();
std::int64_t available_bytes();

}  // namespace filigree
