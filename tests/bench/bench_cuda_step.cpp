// A training step of a GPT-2 shape on the GPU: random tokens, bf16, AdamW, clipping, as RESULTS.md compares
// it with PyTorch's. One JSON line.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "attention/pattern_spec.h"
#include "layers/flops.h"
#include "tests/bench/bench_cuda.h"
#include "train/run/step.h"

namespace filigree {
namespace {

struct Options {
  int layers = 12, heads = 12, steps = 20, tile = 64;
  std::int64_t dim = 768, seq = 1024, batch = 64, micro_batches = 1, vocab = 50304;
  std::string pattern = "{full: {}}";
  bool eager = false, fp32 = false;
};

std::vector<Batch> batches(const Options& o, RandomStream& random) {
  std::vector<Batch> made;
  const std::int64_t b = o.batch / o.micro_batches;
  for (std::int64_t i = 0; i < o.micro_batches; ++i) {
    Batch batch;
    const auto tokens = [&] {
      std::vector<std::int32_t> ids(static_cast<std::size_t>(b * o.seq));
      for (auto& id : ids) id = static_cast<std::int32_t>(random.below(static_cast<std::uint32_t>(o.vocab)));
      return Tensor::of({b, o.seq}, ids);
    };
    batch.inputs = tokens();
    batch.targets = tokens();
    std::vector<std::int32_t> bounds;
    for (std::int64_t k = 0; k < b * o.seq; ++k)
      bounds.insert(bounds.end(), {0, static_cast<std::int32_t>(o.seq)});
    batch.row_bounds = Tensor::of({b, o.seq, 2}, bounds);
    bounds.resize(static_cast<std::size_t>(2 * b));
    batch.token_bounds = Tensor::of({b, 2}, bounds);
    batch.n_targets = batch.n_tokens = b * o.seq;
    made.push_back(std::move(batch));
  }
  return made;
}

void run(const Options& o) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  ModelConfig config;
  config.dim = o.dim;
  config.n_layers = o.layers;
  config.n_heads = o.heads;
  config.vocab_size = o.vocab;
  config.max_seq_len = o.seq;
  const auto patterns = std::make_shared<const LayerPatterns>(
      make_layer_patterns(read_pattern(parse_yaml(o.pattern, "bench")), o.layers, o.heads),
      Geometry{o.seq, true, o.tile}, o.heads);
  Transformer model(config, 1, Device::cuda(), DType::f32, o.fp32 ? DType::f32 : DType::bf16, patterns);
  Optimizer optimizer(TrainConfig{}, model.parameters());
  StepOptions options;
  options.clip = 1;
  options.micro_batches = o.micro_batches;
  options.graph = !o.eager;
  Stepper stepper(model, optimizer, options);
  RandomStream random(7);
  std::vector<double> times;
  double first = 0, loss = 0;
  for (int step = 0; step < o.steps + 4; ++step) {
    auto data = batches(o, random);
    const auto before = Clock::now();
    stepper.submit(std::move(data), step, 3e-4);
    loss = stepper.next(true)->loss;
    if (step == 0) first = std::chrono::duration<double>(Clock::now() - begin).count();
    if (step >= 4) times.push_back(std::chrono::duration<double>(Clock::now() - before).count());
  }
  std::ranges::sort(times);
  const double seconds = times[times.size() / 2], tokens = static_cast<double>(o.batch * o.seq);
  const double flops = model_flops_per_token(config, patterns->layouts(o.seq));
  const MemoryStatistics memory = allocator(Device::cuda()).statistics();
  fmt::print(
      "{{\"impl\": \"filigree\", \"batch\": {}, \"micro_batches\": {}, \"seq\": {}, \"pattern\": \"{}\", "
      "\"tile\": {}, \"params\": {}, \"ms_per_step\": {:.2f}, \"tok_per_s\": {:.0f}, \"first_step_s\": "
      "{:.2f}, "
      "\"peak_gib\": {:.2f}, \"useful_tflops\": {:.1f}, \"loss\": {:.4f}}}\n",
      o.batch, o.micro_batches, o.seq, o.pattern, o.tile, model.parameter_count(), 1e3 * seconds,
      tokens / seconds, first, static_cast<double>(memory.peak_reserved) / (1 << 30),
      flops * tokens / seconds / 1e12, loss);
}

}  // namespace
}  // namespace filigree

int main(int argc, char** argv) {
  using namespace filigree;
  Options o;
  CLI::App app{"A training step on the GPU"};
  app.add_option("--layers", o.layers);
  app.add_option("--dim", o.dim);
  app.add_option("--heads", o.heads);
  app.add_option("--seq", o.seq);
  app.add_option("--batch", o.batch);
  app.add_option("--micro-batches", o.micro_batches);
  app.add_option("--vocab", o.vocab);
  app.add_option("--steps", o.steps);
  app.add_option("--tile", o.tile);
  app.add_option("--pattern", o.pattern, "YAML");
  app.add_flag("--eager", o.eager, "No CUDA graph");
  app.add_flag("--fp32", o.fp32);
  CLI11_PARSE(app, argc, argv);
  if (!have_cuda()) return 1;
  run(o);
}
