// filigree doctor: what this machine and this build can do.
#include <sys/utsname.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "core/build_info.h"
#include "core/parallel.h"
#include "train/commands/commands.h"
#include "train/run/matrix_rate.h"

namespace filigree {
namespace {

std::string vector_instructions() {
  std::ifstream in("/proc/cpuinfo");
  std::string flags;
  while (std::getline(in, flags) && !flags.starts_with("flags")) {
  }
  flags += " ";
  std::string found;
  for (const char* name : {"avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16"})
    if (flags.find(fmt::format(" {} ", name)) != std::string::npos) found += fmt::format("{} ", name);
  return found.empty() ? "none known" : found;
}

void line(const std::string& name, const std::string& value) {
  fmt::print("{:<14}{}\n", name, value);
}

void doctor() {
  constexpr double gib = 1 << 30;
  utsname system{};
  uname(&system);
  line("filigree", version());
  line("commit", commit());
  line("build", build());
  for (const auto& [name, value] : library_versions()) line(name, value);
  line("system", fmt::format("{} {} {}", system.sysname, system.release, system.machine));
  line("cpu", fmt::format("{}, {} threads", device_name(Device::cpu()), n_threads()));
  line("instructions", vector_instructions());
  line("memory", fmt::format("{:.1f} GiB free", available_bytes() / gib));
  std::error_code none;
  const auto space = std::filesystem::space(".", none);
  line("disk", none ? "cannot be read here" : fmt::format("{:.1f} GiB free here", space.available / gib));
  line("matrix rate", fmt::format("{:.1f} GFLOP/s, f32, all threads",
                                  MatrixRate::measure(Device::cpu(), DType::f32).flops() / 1e9));
  const std::string why = cuda_unavailable();
  line("cuda",
       why.empty() ? device_name(Device::cuda()) : fmt::format("device: cuda cannot be used: {}", why));
  if (why.empty())
    line("matrix rate", fmt::format("{:.0f} TFLOP/s, bf16, cuda",
                                    MatrixRate::measure(Device::cuda(), DType::bf16).flops() / 1e12));
}

}  // namespace

void add_doctor(CLI::App& app, Invocation&) {
  auto* command = app.add_subcommand("doctor", "Show what this machine and this build can do");
  command->footer("Example:\n  filigree doctor");
  command->callback(doctor);
}

}  // namespace filigree
