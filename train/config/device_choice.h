// From a config's `device` and `precision` to what a run uses.
#pragma once

#include "layers/transformer.h"
#include "train/config/config.h"

namespace filigree {

// The config with `auto` decided. Error(usage) for cuda where it cannot be used, saying why, and for a
// precision, tile or head dim that the device does not compute.
Config with_device(Config config);

// The device of a config that with_device() returned.
Device device_of(const Config& config);
DType compute_dtype(const Config& config);

// Bytes on the device: of its memory that is free, and the peak that this process took for tensors, what the
// allocator caches and cuBLASLt's workspace included (on the CPU: the peak of the resident set).
std::int64_t free_memory(Device device);
std::int64_t peak_memory(Device device);

}  // namespace filigree
