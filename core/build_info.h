// The parts of this binary and the machine it runs on, for run.json, `filigree --version` and `filigree
// doctor`.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/process_memory.h"
#include "core/tensor.h"

namespace filigree {

std::string version();  // "0.1.0"
// The git commit of the sources, as they were when they were built: "3fa0e19c2b", "3fa0e19c2b-dirty" where
// files had been changed since, "unknown" outside git. And how: "Release, GNU 12.2.0, no CUDA". See
// core/commit.cmake.
std::string commit();
std::string build();

// "Intel(R) Xeon(R) Platinum 8480+", "NVIDIA H100 80GB HBM3, compute capability 9.0, 79.2 GiB"
std::string device_name(Device device);
std::string host_name();

// Name and version of each library as loaded at run time, e.g. {"oneDNN", "2.6.3"}.
std::vector<std::pair<std::string, std::string>> library_versions();

// The best rate of several large matrix products on this device and in this dtype, in FLOP/s. Takes some 0.2
// s.
double measure_matrix_rate(Device device, DType dtype);

// Why CUDA cannot be used here; empty if it can.
std::string cuda_unavailable();

}  // namespace filigree
