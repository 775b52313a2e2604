// The CUDA runtime as a Backend, and each device's state. One stream per device orders everything: kernels,
// copies, frees (a freed block is reused by later work of the same stream).
#include <array>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string_view>

#include "core/backend.h"
#include "core/cuda/cuda.h"

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

cudaDeviceProp properties(int device) {
  cudaDeviceProp result{};
  check_cuda(cudaGetDeviceProperties(&result, device));
  return result;
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
  const cudaDeviceProp info = properties(0);
  if (info.major < kLeastMajor)
    return fmt::format("{} has compute capability {}.{}; {}.0 or newer is needed (Ampere, 2020)", info.name,
                       info.major, info.minor, kLeastMajor);
  return "";
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int device) : device_(device) {}

  void* take(std::int64_t bytes) override {
    state(device_);
    void* pointer = nullptr;
    const cudaError_t status = cudaMalloc(&pointer, static_cast<std::size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // not an error of the next launch
      return nullptr;
    }
    check_cuda(status);
    return pointer;
  }
  void give(void* pointer, std::int64_t) override {
    state(device_);
    check_cuda(cudaFree(pointer));
  }
  std::int64_t alignment() const override { return 256; }  // of cudaMalloc
  bool pools() const override {
    // FILIGREE_CUDA_POOLING=off, for compute-sanitizer: every tensor is an allocation of its own.
    static const char* const pooling = std::getenv("FILIGREE_CUDA_POOLING");
    return !pooling || std::string_view(pooling) != "off";
  }
  std::shared_ptr<void> host_memory(std::int64_t bytes) override {
    void* pointer = nullptr;
    check_cuda(cudaMallocHost(&pointer, static_cast<std::size_t>(bytes)));
    return {pointer, [](void* p) { check_cuda(cudaFreeHost(p)); }};
  }

  void copy(void* to, const void* from, std::int64_t bytes, CopyKind kind) override {
    if (bytes == 0) return;
    const cudaMemcpyKind direction = kind == CopyKind::from_host ? cudaMemcpyHostToDevice
                                     : kind == CopyKind::to_host ? cudaMemcpyDeviceToHost
                                                                 : cudaMemcpyDeviceToDevice;
    check_cuda(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), direction, stream()));
  }
  void zero(void* pointer, std::int64_t bytes) override {
    if (bytes > 0) check_cuda(cudaMemsetAsync(pointer, 0, static_cast<std::size_t>(bytes), stream()));
  }
  void synchronize() override { check_cuda(cudaStreamSynchronize(stream())); }

  std::shared_ptr<void> make_event() override {
    cudaEvent_t event = nullptr;
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return {event, [](void* e) { check_cuda(cudaEventDestroy(static_cast<cudaEvent_t>(e))); }};
  }
  void record(void* event) override {
    check_cuda(cudaEventRecord(static_cast<cudaEvent_t>(event), stream()));
  }
  void wait(void* event) override { check_cuda(cudaEventSynchronize(static_cast<cudaEvent_t>(event))); }

  std::shared_ptr<void> capture(const std::function<void()>& f) override {
    // Relaxed: the allocator takes memory from CUDA meanwhile, which is no work of the stream.
    check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed));
    cudaGraph_t graph = nullptr;
    try {
      f();
    } catch (...) {
      cudaStreamEndCapture(stream(), &graph);
      if (graph) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    check_cuda(cudaStreamEndCapture(stream(), &graph));
    cudaGraphExec_t executable = nullptr;
    check_cuda(cudaGraphInstantiate(&executable, graph, 0));
    check_cuda(cudaGraphDestroy(graph));
    return {executable, [](void* g) { check_cuda(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(g))); }};
  }
  void launch(void* graph) override {
    check_cuda(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream()));
  }

  std::string description() const override {
    const cudaDeviceProp info = properties(device_);
    return fmt::format("{}, compute capability {}.{}, {:.1f} GiB", info.name, info.major, info.minor,
                       static_cast<double>(memory().total) / (1 << 30));
  }
  std::int64_t free_memory() const override { return static_cast<std::int64_t>(memory().free); }

 private:
  struct Memory {
    std::size_t free = 0, total = 0;
  };
  Memory memory() const {
    Memory m;
    check_cuda(cudaSetDevice(device_));
    check_cuda(cudaMemGetInfo(&m.free, &m.total));
    return m;
  }
  cudaStream_t stream() const { return state(device_).stream; }

  int device_;
};

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

std::string runtime_versions() {
  int driver = 0, runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  return fmt::format("{}, driver {}", version_text(runtime), driver ? version_text(driver) : "none");
}

Backend& backend(int index) {
  if (const std::string why = why_unavailable(); !why.empty())
    throw Error(ErrorKind::usage, "device: cuda cannot be used: " + why, "use device: cpu");
  check(index >= 0 && index < kMaxDevices, "no such CUDA device");
  static std::array<CudaBackend*, kMaxDevices> backends;
  static std::array<std::once_flag, kMaxDevices> made;
  const auto i = static_cast<std::size_t>(index);
  std::call_once(made[i], [=] { backends[i] = new CudaBackend(index); });  // lives as long as the process
  return *backends[i];
}

}  // namespace filigree::cuda
