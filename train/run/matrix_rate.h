// The rate of large matrix products on this machine, of which a run's rate is a fraction. It is measured once
// and kept for each machine, device, number of threads, dtype and build in
// $XDG_CACHE_HOME/filigree/matrix_rates.json (~/.cache in its place): a run that begins while others run
// would measure too little. What is exceeded was too little and is measured again by the next process.
#pragma once

#include <filesystem>

#include "core/tensor.h"

namespace filigree {

class MatrixRate {
 public:
  MatrixRate() = default;
  // The kept one; else it is measured, in some 0.2 s. It depends on n_threads().
  static MatrixRate of(Device device, DType dtype);
  // Measured now, and kept if it is greater than what is.
  static MatrixRate measure(Device device, DType dtype);

  double flops() const { return flops_; }  // per second
  // The fraction of it that a rate in FLOP/s over some seconds is. A greater rate takes its place, since the
  // machine has reached it; over less than half a second that is a matter of when results were read.
  double share(double flops, double seconds);

 private:
  MatrixRate(std::string key, double flops) : key_(std::move(key)), flops_(flops) {}

  std::string key_;
  double flops_ = 0;
};

std::filesystem::path matrix_rate_file();

}  // namespace filigree
