#include "train/config/device_choice.h"

#include "core/backend.h"
#include "core/build_info.h"

namespace filigree {

Config with_device(Config config) {
  if (config.device == DeviceChoice::automatic)
    config.device = cuda_unavailable().empty() ? DeviceChoice::cuda : DeviceChoice::cpu;
  const bool cuda = config.device == DeviceChoice::cuda;
  if (cuda)
    if (const std::string why = cuda_unavailable(); !why.empty())
      throw Error(ErrorKind::usage, "device: cuda cannot be used: " + why,
                  "use device: cpu, or device: auto");
  if (config.precision == Precision::automatic) config.precision = cuda ? Precision::bf16 : Precision::fp32;
  if (config.precision == Precision::bf16 && !cuda)
    throw Error(ErrorKind::usage, "precision: bf16 needs device: cuda", "use precision: fp32 on the CPU");
  if (!cuda) return config;
  if (config.tile == 16)
    throw Error(ErrorKind::usage, "tile: 16 is computed by device: cpu only; cuda computes 32, 64 and 128",
                "set tile: 32 or more");
  const ModelConfig& model = config.model;
  const std::int64_t head_dim = model.head_dim > 0 ? model.head_dim : model.dim / model.n_heads;
  if (config.precision == Precision::bf16 && (head_dim < 32 || head_dim > 128 || head_dim % 16 != 0))
    throw Error(ErrorKind::usage,
                fmt::format("model.head_dim is {}; bf16 computes 32 to 128 in steps of 16", head_dim),
                "choose another model.dim or n_heads, or precision: fp32");
  return config;
}

Device device_of(const Config& config) {
  return config.device == DeviceChoice::cuda ? Device::cuda() : Device::cpu();
}

DType compute_dtype(const Config& config) {
  return config.precision == Precision::bf16 ? DType::bf16 : DType::f32;
}

std::int64_t free_memory(Device device) {
  return backend(device).free_memory();
}

std::int64_t peak_memory(Device device) {
  if (!device.is_cuda()) return peak_resident_bytes();
  return allocator(device).statistics().peak_reserved + cuda::kProductWorkspaceBytes;
}

}  // namespace filigree
