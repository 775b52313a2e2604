// How fast a training step is and how much memory it takes.
//   bench_step                    dense step (dim 384, 6 layers, 6 heads, N 1024) against a large dnnl_sgemm
//   bench_step memory             peak memory of dim 256, 4 layers, N 32768, window 256
// The two rates of the first are measured in turns and their medians compared, so that a busy machine slows
// both.
#include <dnnl.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "attention/pattern_spec.h"
#include "core/parallel.h"
#include "layers/flops.h"
#include "layers/transformer.h"
#include "train/run/optimizer.h"

namespace filigree {
namespace {

double seconds_of(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// A model with what one training step needs.
struct Step {
  Transformer model;
  Optimizer optimizer;
  ModelInput input;
  Tensor targets;
  std::uint32_t step = 0;

  Step(const ModelConfig& config, std::int64_t n, const std::string& pattern)
      : model(config, 1, Device::cpu(), DType::f32, DType::f32, patterns(config, n, pattern)),
        optimizer(TrainConfig{}, model.parameters()) {
    RandomStream random(7);
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i <= n; ++i)
      tokens.push_back(
          static_cast<std::int32_t>(random.below(static_cast<std::uint32_t>(config.vocab_size))));
    input.tokens = Tensor::of({1, n}, std::vector<std::int32_t>(tokens.begin(), tokens.end() - 1));
    targets = Tensor::of({1, n}, std::vector<std::int32_t>(tokens.begin() + 1, tokens.end()));
  }

  void forward() { model.loss(input, targets, {.training = true, .seed = 1, .step = step}); }
  void run() {
    backward(model.loss(input, targets, {.training = true, .seed = 1, .step = step++}));
    const auto rates = optimizer.next_rates(1e-4);
    optimizer.step({Tensor::of<double>({kStepRates}, rates), optimizer.sum_of_squares(),
                    Tensor::zeros({1}, DType::u32), 1});
    optimizer.zero_grad();
  }
  static LayerPatternsPtr patterns(const ModelConfig& c, std::int64_t n, const std::string& pattern) {
    return std::make_shared<const LayerPatterns>(
        make_layer_patterns(read_pattern(parse_yaml(pattern, "bench")), c.n_layers, c.n_heads),
        Geometry{n, true, 64}, c.n_heads);
  }
  double flops() const {
    return model_flops_per_token(model.config(), model.computed_layouts()) *
           static_cast<double>(input.tokens.numel());
  }
};

ModelConfig shape(std::int64_t dim, int layers, int heads, std::int64_t n) {
  ModelConfig c;
  c.dim = dim;
  c.n_layers = layers;
  c.n_heads = heads;
  c.vocab_size = 256;
  c.max_seq_len = n;
  return c;
}

void speed() {
  constexpr std::int64_t kN = 1024, kSquare = 2048;
  Step step(shape(384, 6, 6, kN), kN, "{full: {}}");
  std::vector<float> a(kSquare * kSquare, 0.5f), b(a), c(a);
  omp_set_num_threads(n_threads());
  const auto gemm = [&] {
    dnnl_sgemm('N', 'N', kSquare, kSquare, kSquare, 1, a.data(), kSquare, b.data(), kSquare, 0, c.data(),
               kSquare);
  };
  gemm();
  step.run();
  step.run();
  std::vector<double> gemm_seconds, step_seconds, forward_seconds;
  for (int i = 0; i < 11; ++i) {
    gemm_seconds.push_back(seconds_of(gemm));
    step_seconds.push_back(seconds_of([&] { step.run(); }));
    forward_seconds.push_back(seconds_of([&] { step.forward(); }));
  }
  const double gemm_rate = 2.0 * kSquare * kSquare * kSquare / median(gemm_seconds);
  const double step_rate = step.flops() / median(step_seconds);
  std::printf("threads %d\n", n_threads());
  std::printf("dnnl_sgemm %d^3         %7.1f GFLOP/s\n", static_cast<int>(kSquare), gemm_rate * 1e-9);
  std::printf("training step           %7.1f GFLOP/s useful, %.1f ms (forward %.1f ms), %.2f GFLOP\n",
              step_rate * 1e-9, median(step_seconds) * 1e3, median(forward_seconds) * 1e3,
              step.flops() * 1e-9);
  std::printf("ratio                   %7.3f (target 0.60)\n", step_rate / gemm_rate);
}

// A line of /proc/self/status in MiB.
double status_mib(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":")) return std::stod(line.substr(key.size() + 1)) / 1024;
  return 0;
}

void memory() {
  constexpr std::int64_t kN = 32768;
  Step step(shape(256, 4, 4, kN), kN, "{local: {window: 256}}");
  for (int i = 0; i < 2; ++i) {
    const double seconds = seconds_of([&] { step.run(); });
    const MemoryStatistics m = allocator(Device::cpu()).statistics();
    std::printf(
        "step %d  %6.2f s  tensors %7.1f MiB peak  reserved %7.1f MiB peak  process %7.1f MiB (target "
        "4096)\n",
        i, seconds, static_cast<double>(m.peak_in_use) / (1 << 20),
        static_cast<double>(m.peak_reserved) / (1 << 20), status_mib("VmHWM"));
  }
}

}  // namespace
}  // namespace filigree

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "memory")
    filigree::memory();
  else
    filigree::speed();
}
