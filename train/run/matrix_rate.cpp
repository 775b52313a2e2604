#include "train/run/matrix_rate.h"

#include <sys/stat.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/build_info.h"
#include "core/file.h"
#include "core/parallel.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::size_t kKept = 32;  // entries, the newest

// Another build may have other libraries or instructions.
std::string build_key() {
  struct stat binary {};
  if (::stat("/proc/self/exe", &binary) != 0) return version();
  return fmt::format("{} {}-{}.{}", version(), binary.st_size, binary.st_mtim.tv_sec, binary.st_mtim.tv_nsec);
}

std::string key_of(Device device, DType dtype) {
  return fmt::format("{}, {}{}, {}", device_name(device),
                     device.is_cuda() ? "" : fmt::format("{} threads, ", n_threads()), dtype_name(dtype),
                     build_key());
}

// {"<key>": {"flops": .., "exceeded": ..}, ..}, the newest entry last; empty if there is none that can be
// read.
Json read_rates() {
  try {
    Json rates = Json::parse(read_file(matrix_rate_file()), nullptr, false);
    if (rates.is_object()) return rates;
  } catch (const Error&) {
  }
  return Json::object();
}

// Where nothing can be kept, every process measures.
void keep(const std::string& key, double flops, bool exceeded) {
  Json rates = read_rates();
  rates.erase(key);
  rates[key] = {{"flops", flops}, {"exceeded", exceeded}};
  while (rates.size() > kKept) rates.erase(rates.begin());
  try {
    std::error_code ignored;
    fs::create_directories(matrix_rate_file().parent_path(), ignored);
    write_file_atomically(matrix_rate_file(), rates.dump(1) + '\n');
  } catch (const Error&) {
  }
}

struct Kept {
  double flops = 0;
  bool exceeded = true;
};

Kept kept(const std::string& key) {
  const Json rates = read_rates();
  const auto found = rates.find(key);
  if (found == rates.end() || !found->is_object()) return {};
  const Json flops = found->value("flops", Json()), exceeded = found->value("exceeded", Json());
  if (!flops.is_number() || !exceeded.is_boolean() || !(flops.get<double>() > 0)) return {};
  return {flops, exceeded};
}

}  // namespace

fs::path matrix_rate_file() {
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  const fs::path folder =
      cache && *cache ? fs::path(expand_home(cache)) : fs::path(home && *home ? home : "/tmp") / ".cache";
  return folder / "filigree" / "matrix_rates.json";
}

MatrixRate MatrixRate::of(Device device, DType dtype) {
  const std::string key = key_of(device, dtype);
  if (const Kept known = kept(key); !known.exceeded) return {key, known.flops};
  return measure(device, dtype);
}

MatrixRate MatrixRate::measure(Device device, DType dtype) {
  const std::string key = key_of(device, dtype);
  const Kept known = kept(key);
  double flops = measure_matrix_rate(device, dtype);
  if (!known.exceeded) flops = std::max(flops, known.flops);
  keep(key, flops, false);
  return {key, flops};
}

double MatrixRate::share(double flops, double seconds) {
  constexpr double kLong = 0.5;
  if (flops <= flops_) return flops / flops_;
  if (seconds >= kLong) {
    flops_ = flops;
    keep(key_, flops, true);
  }
  return 1;
}

}  // namespace filigree
