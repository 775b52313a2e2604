// What a training step of a GPT-like model costs while its heads learn their connectivity, and after: full
// attention; learned_layout when it has come down to its budget (the table has the tiles that are computed,
// by chance and exploration too); the same hardened, against a fixed layout of exactly the same tiles, in
// turns; block_topk while it routes, hardened and fixed. Random tokens, AdamW at rate 0, medians; "over
// fixed" is the median of the ratios of neighbouring steps, which a busy machine slows both.
//
//   bench_learned_step --device cuda --seq 4096 --batch 8
//   bench_learned_step --device cpu --dim 128 --layers 2 --heads 4 --seq 2048 --batch 2 --vocab 256
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>

#include "attention/pattern_spec.h"
#include "core/build_info.h"
#include "core/stream.h"
#include "train/run/step.h"

namespace filigree {
namespace {

struct Options {
  std::string device = "cpu";
  int layers = 12, heads = 12, tile = 64, steps = 15;
  std::int64_t dim = 768, seq = 4096, batch = 8, vocab = 50304;
  std::vector<double> budgets = {0.5, 0.25, 0.1};
  bool fp32 = false;
};

constexpr std::int64_t kRunSteps = 1000000;               // of which those measured are in one phase
constexpr std::int64_t kLearning = kRunSteps * 79 / 100,  // at the budget, and not hardened yet
    kHardened = kRunSteps * 9 / 10;
constexpr int kWarmUp = 5;

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

Batch random_batch(const Options& o) {
  RandomStream random(7);
  Batch batch;
  const auto tokens = [&] {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(o.batch * o.seq));
    for (auto& id : ids) id = static_cast<std::int32_t>(random.below(static_cast<std::uint32_t>(o.vocab)));
    return Tensor::of({o.batch, o.seq}, ids);
  };
  batch.inputs = tokens();
  batch.targets = tokens();
  std::vector<std::int32_t> bounds;
  for (std::int64_t i = 0; i < o.batch * o.seq; ++i)
    bounds.insert(bounds.end(), {0, static_cast<std::int32_t>(o.seq)});
  batch.row_bounds = Tensor::of({o.batch, o.seq, 2}, bounds);
  bounds.resize(static_cast<std::size_t>(2 * o.batch));
  batch.token_bounds = Tensor::of({o.batch, 2}, bounds);
  batch.n_targets = batch.n_tokens = o.batch * o.seq;
  return batch;
}

LayerPatternsPtr patterns_of(const Options& o, std::vector<PatternPtr> layers) {
  return std::make_shared<const LayerPatterns>(std::move(layers), Geometry{o.seq, true, o.tile}, o.heads);
}

LayerPatternsPtr patterns_of(const Options& o, const std::string& yaml) {
  return patterns_of(o, make_layer_patterns(read_pattern(parse_yaml(yaml, "bench")), o.layers, o.heads));
}

ModelConfig config_of(const Options& o) {
  ModelConfig config;
  config.dim = o.dim;
  config.n_layers = o.layers;
  config.n_heads = o.heads;
  config.vocab_size = o.vocab;
  config.max_seq_len = o.seq;
  return config;
}

// A model under training.
class Training {
 public:
  Training(const Options& o, const LayerPatternsPtr& patterns)
      : options_(o),
        model_(config_of(o), 1, device(o), DType::f32,
               device(o).is_cuda() && !o.fp32 ? DType::bf16 : DType::f32, patterns),
        optimizer_(TrainConfig{}, model_.parameters()),
        batch_(random_batch(o)),
        stepper_(model_, optimizer_, step_options(o)) {}

  static Device device(const Options& o) { return o.device == "cuda" ? Device::cuda() : Device::cpu(); }

  // Seconds of a step with its result read.
  double step(std::int64_t phase) {
    const auto begin = std::chrono::steady_clock::now();
    stepper_.submit({batch_}, phase + done_++, 0);
    stepper_.next(true);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  // Computed tiles over those of full attention.
  double share() const {
    double tiles = 0;
    for (const LayoutPtr& layout : model_.computed_layouts())
      tiles += static_cast<double>(layout->statistics().computed_tiles);
    const double side = static_cast<double>((options_.seq + options_.tile - 1) / options_.tile);
    return tiles / (side * (side + 1) / 2 * options_.heads * options_.layers);
  }

  // The layouts of the last step as patterns, as `block: {file: ..}` would read them.
  LayerPatternsPtr fixed() const {
    std::vector<PatternPtr> layers;
    for (const LayoutPtr& layout : model_.computed_layouts())
      layers.push_back(pattern_of_layout(layout, "bench"));
    return patterns_of(options_, std::move(layers));
  }

 private:
  static StepOptions step_options(const Options& o) {
    StepOptions options;
    options.clip = 1;
    options.graph = device(o).is_cuda();
    options.steps = kRunSteps;
    return options;
  }

  Options options_;
  Transformer model_;
  Optimizer optimizer_;
  Batch batch_;
  Stepper stepper_;
  std::int64_t done_ = 0;
};

struct Phase {
  Training* training;
  std::int64_t first_step;
};

// Seconds of each one's steps, measured in turns.
std::vector<std::vector<double>> measure(const Options& o, const std::vector<Phase>& phases) {
  std::vector<std::vector<double>> times(phases.size());
  for (int i = 0; i < kWarmUp + o.steps; ++i)
    for (std::size_t p = 0; p < phases.size(); ++p) {
      const double seconds = phases[p].training->step(phases[p].first_step);
      if (i >= kWarmUp) times[p].push_back(seconds);
    }
  return times;
}

class Table {
 public:
  explicit Table(double full_seconds) : full_(full_seconds) {
    fmt::print("| step | tiles | ms | over full | over fixed |\n|---|---|---|---|---|\n");
    row("full attention", 1, full_seconds, 0);
  }
  // over_fixed: 0 if there is nothing to compare with.
  void row(const std::string& what, double share, double seconds, double over_fixed) const {
    fmt::print("| {} | {:.3f} | {:.2f} | {:.3f} | {} |\n", what, share, 1e3 * seconds, seconds / full_,
               over_fixed > 0 ? fmt::format("{:.3f}", over_fixed) : "");
    std::fflush(stdout);
  }

 private:
  double full_;
};

// While learning, hardened, and fixed at the tiles of hardened.
void compare(const Options& o, const Table& table, const std::string& name, Training& learned) {
  const double learning = median(measure(o, {{&learned, kLearning}})[0]);
  const double share = learned.share();
  learned.step(kHardened);
  Training fixed(o, learned.fixed());
  const auto seconds = measure(o, {{&learned, kHardened}, {&fixed, 0}});
  std::vector<double> ratios;
  for (std::size_t i = 0; i < seconds[0].size(); ++i) ratios.push_back(seconds[0][i] / seconds[1][i]);
  table.row(name + ", learning", share, learning, 0);
  table.row(name + ", hardened", learned.share(), median(seconds[0]), median(ratios));
  table.row(name + ", fixed", fixed.share(), median(seconds[1]), 0);
}

void run(const Options& o) {
  double full_seconds = 0;
  {
    Training full(o, patterns_of(o, "{full: {}}"));
    full_seconds = median(measure(o, {{&full, 0}})[0]);
  }
  const Table table(full_seconds);
  for (const double budget : o.budgets) {
    const std::string yaml = fmt::format("{{learned_layout: {{budget: {}}}}}", budget);
    Training learned(o, patterns_of(o, yaml));
    compare(o, table, fmt::format("learned_layout {}", budget), learned);
  }
  const double side = static_cast<double>((o.seq + o.tile - 1) / o.tile);
  for (const double budget : o.budgets) {
    // Beside the diagonal and one sink.
    const auto topk = std::max<std::int64_t>(1, std::llround(budget * (side + 1) / 2) - 2);
    const std::string yaml =
        fmt::format("{{block_topk: {{topk: {}, harden: 0.8, budget: {}}}}}", topk, budget);
    Training router(o, patterns_of(o, yaml));
    compare(o, table, fmt::format("block_topk {} (topk {})", budget, topk), router);
  }
}

}  // namespace
}  // namespace filigree

int main(int argc, char** argv) {
  using namespace filigree;
  Options o;
  CLI::App app{"A training step while patterns are learned, and after"};
  app.add_option("--device", o.device)->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--layers", o.layers);
  app.add_option("--dim", o.dim);
  app.add_option("--heads", o.heads);
  app.add_option("--seq", o.seq);
  app.add_option("--batch", o.batch);
  app.add_option("--vocab", o.vocab);
  app.add_option("--tile", o.tile);
  app.add_option("--steps", o.steps);
  app.add_option("--budgets", o.budgets, "Shares of full attention's tiles");
  app.add_flag("--fp32", o.fp32);
  CLI11_PARSE(app, argc, argv);
  if (o.device == "cuda")
    if (const std::string why = cuda_unavailable(); !why.empty()) {
      fmt::print(stderr, "no GPU: {}\n", why);
      return 1;
    }
  run(o);
}
