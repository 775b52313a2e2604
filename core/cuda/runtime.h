// What the rest of core needs of the CUDA runtime, without its headers. Everything is ordered by the device's
// one stream. Errors: Error(usage) for a device that cannot be used, saying why; a failed call of ours is a
// std::logic_error with CUDA's own message, and so is an error of an earlier kernel.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace filigree::cuda {

// What products by cuBLASLt take of a device for sums over parts of k, once and beside the allocator.
inline constexpr std::int64_t kProductWorkspaceBytes = std::int64_t{64} << 20;

struct DeviceInfo {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int major = 0, minor = 0;
  int multiprocessors = 0;
  std::int64_t memory = 0, free_memory = 0;  // bytes
};

// Empty if device 0 can be used; else why not: no driver, no device, a driver or a card too old.
std::string why_unavailable();
DeviceInfo device_info(int device);
std::string runtime_versions();  // "13.0, driver 13.0"

void* allocate(int device, std::int64_t bytes);  // nullptr when there is none left
void release(int device, void* pointer);
void* allocate_pinned(std::int64_t bytes);  // of the host
void release_pinned(void* pointer);

void copy_to_device(int device, void* to, const void* from, std::int64_t bytes);  // waits
void copy_to_host(int device, void* to, const void* from, std::int64_t bytes);    // waits
void copy_on_device(int device, void* to, const void* from, std::int64_t bytes);  // enqueued
void copy_to_device_async(int device, void* to, const void* pinned, std::int64_t bytes);
void copy_to_host_async(int device, void* pinned, const void* from, std::int64_t bytes);
void zero(int device, void* pointer, std::int64_t bytes);
void synchronize(int device);

void* make_event();
void record_event(int device, void* event);
void wait_event(void* event);  // on the host
void free_event(void* event);

// Everything that f enqueues becomes a graph instead of running.
void* capture_graph(int device, const std::function<void()>& f);
void launch_graph(int device, void* graph);
void free_graph(void* graph);

}  // namespace filigree::cuda
