// The CUDA runtime behind core/cuda/runtime.h, and each device's state. One stream per device orders
// everything: kernels, copies, frees (a freed block is reused by later work of the same stream).
#include <array>
#include <atomic>
#include <mutex>

#include "core/cuda/cuda.h"
#include "core/cuda/runtime.h"

namespace filigree::cuda {
namespace {

constexpr int kMaxDevices = 16;
constexpr int kLeastMajor = 8;  // compute capability: bf16 tensor cores, cp.async

struct State {
  cudaStream_t stream = nullptr;
  int multiprocessors = 0;
  int major = 0, minor = 0;  // compute capability
};

State& state(int device) {
  static std::array<State, kMaxDevices> states;
  static std::array<std::once_flag, kMaxDevices> made;
  check(device >= 0 && device < kMaxDevices, "no such CUDA device");
  std::call_once(made[static_cast<std::size_t>(device)], [device] {
    State& s = states[static_cast<std::size_t>(device)];
    check_cuda(cudaSetDevice(device));
    check_cuda(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking));
    check_cuda(cudaDeviceGetAttribute(&s.multiprocessors, cudaDevAttrMultiProcessorCount, device));
    check_cuda(cudaDeviceGetAttribute(&s.major, cudaDevAttrComputeCapabilityMajor, device));
    check_cuda(cudaDeviceGetAttribute(&s.minor, cudaDevAttrComputeCapabilityMinor, device));
  });
  return states[static_cast<std::size_t>(device)];
}

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::string probe() {
  int driver = 0, runtime = 0, count = 0;
  cudaRuntimeGetVersion(&runtime);
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    return "there is no NVIDIA driver (nvidia-smi should list the card)";
  if (driver / 1000 < runtime / 1000)
    return fmt::format("the driver is for CUDA {}, this filigree needs {}; update the driver",
                       version_text(driver), version_text(runtime));
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  if (count == 0) return "there is no NVIDIA card";
  const DeviceInfo info = device_info(0);
  if (info.major < kLeastMajor)
    return fmt::format("{} has compute capability {}.{}; {}.0 or newer is needed (Ampere, 2020)", info.name,
                       info.major, info.minor, kLeastMajor);
  return "";
}

}  // namespace

void check_cuda(cudaError_t status, std::source_location where) {
  if (status != cudaSuccess) [[unlikely]]
    check(false, fmt::format("CUDA: {} ({})", cudaGetErrorString(status), cudaGetErrorName(status)), where);
}

cudaStream_t stream(Context context) {
  return state(context.device).stream;
}
int multiprocessors(Context context) {
  return state(context.device).multiprocessors;
}

bool is_hopper(Context context) {
  const State& s = state(context.device);
  return s.major == 9 && s.minor == 0;
}

bool capturing(Context context) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream(context), &status));
  return status != cudaStreamCaptureStatusNone;
}

std::string why_unavailable() {
  static const std::string why = probe();
  return why;
}

DeviceInfo device_info(int device) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device));
  std::size_t free = 0, total = 0;
  check_cuda(cudaSetDevice(device));
  check_cuda(cudaMemGetInfo(&free, &total));
  return {properties.name,
          properties.major,
          properties.minor,
          properties.multiProcessorCount,
          static_cast<std::int64_t>(total),
          static_cast<std::int64_t>(free)};
}

std::string runtime_versions() {
  int driver = 0, runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  return fmt::format("{}, driver {}", version_text(runtime), driver ? version_text(driver) : "none");
}

void* allocate(int device, std::int64_t bytes) {
  state(device);
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, static_cast<std::size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not an error of the next launch
    return nullptr;
  }
  check_cuda(status);
  return pointer;
}

void release(int device, void* pointer) {
  state(device);
  check_cuda(cudaFree(pointer));
}

void* allocate_pinned(std::int64_t bytes) {
  void* pointer = nullptr;
  check_cuda(cudaMallocHost(&pointer, static_cast<std::size_t>(bytes)));
  return pointer;
}

void release_pinned(void* pointer) {
  check_cuda(cudaFreeHost(pointer));
}

namespace {

void copy(int device, void* to, const void* from, std::int64_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return;
  check_cuda(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, state(device).stream));
}

}  // namespace

void copy_to_device(int device, void* to, const void* from, std::int64_t bytes) {
  copy(device, to, from, bytes, cudaMemcpyHostToDevice);
  synchronize(device);
}
void copy_to_host(int device, void* to, const void* from, std::int64_t bytes) {
  copy(device, to, from, bytes, cudaMemcpyDeviceToHost);
  synchronize(device);
}
void copy_on_device(int device, void* to, const void* from, std::int64_t bytes) {
  copy(device, to, from, bytes, cudaMemcpyDeviceToDevice);
}
void copy_to_device_async(int device, void* to, const void* pinned, std::int64_t bytes) {
  copy(device, to, pinned, bytes, cudaMemcpyHostToDevice);
}
void copy_to_host_async(int device, void* pinned, const void* from, std::int64_t bytes) {
  copy(device, pinned, from, bytes, cudaMemcpyDeviceToHost);
}

void zero(int device, void* pointer, std::int64_t bytes) {
  if (bytes > 0)
    check_cuda(cudaMemsetAsync(pointer, 0, static_cast<std::size_t>(bytes), state(device).stream));
}

void synchronize(int device) {
  check_cuda(cudaStreamSynchronize(state(device).stream));
}

void* make_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}
void record_event(int device, void* event) {
  check_cuda(cudaEventRecord(static_cast<cudaEvent_t>(event), state(device).stream));
}
void wait_event(void* event) {
  check_cuda(cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
}
void free_event(void* event) {
  check_cuda(cudaEventDestroy(static_cast<cudaEvent_t>(event)));
}

void* capture_graph(int device, const std::function<void()>& f) {
  const cudaStream_t s = state(device).stream;
  // Relaxed: the allocator takes memory from CUDA meanwhile, which is no work of the stream.
  check_cuda(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed));
  cudaGraph_t graph = nullptr;
  try {
    f();
  } catch (...) {
    cudaStreamEndCapture(s, &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check_cuda(cudaStreamEndCapture(s, &graph));
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaGraphInstantiate(&executable, graph, 0));
  check_cuda(cudaGraphDestroy(graph));
  return executable;
}

void launch_graph(int device, void* graph) {
  check_cuda(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), state(device).stream));
}
void free_graph(void* graph) {
  check_cuda(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)));
}

}  // namespace filigree::cuda
