#include "train/bench/crossover.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "attention/sparse_attention.h"
#include "core/build_info.h"
#include "core/parallel.h"
#include "core/random.h"
#include "core/stream.h"
#include "train/bench/crossover_chart.h"
#include "train/config/device_choice.h"
#include "train/config/layouts.h"
#include "train/run/step.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kTurnMs = 60;  // that a turn takes at least, of several calls where one is short
constexpr int kMaxCalls = 200;

double quantile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  return values[std::lround(share * static_cast<double>(values.size() - 1))];
}

// Milliseconds per call. `f` enqueues work; `wait` returns when all of it is done.
double time_calls(int calls, const std::function<void()>& f, const std::function<void()>& wait) {
  wait();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) f();
  wait();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count() / calls;
}

// Something to time: repeated calls, and how to wait for them.
class Work {
 public:
  virtual ~Work() = default;
  virtual void call() = 0;
  virtual void wait() = 0;

  void prepare() {  // first calls capture graphs and fill caches
    const auto once = [&](int calls) {
      return time_calls(
          calls, [&] { call(); }, [&] { wait(); });
    };
    once(3);
    calls_ = std::clamp(static_cast<int>(kTurnMs / std::max(1e-3, once(1))), 1, kMaxCalls);
  }
  double turn() {
    return time_calls(
        calls_, [&] { call(); }, [&] { wait(); });
  }

 private:
  int calls_ = 1;
};

Timing alternate(Work& full, Work& sparse, int repeats) {
  full.prepare();
  sparse.prepare();
  std::vector<double> a, b, ratios;
  for (int i = 0; i < repeats; ++i) {
    a.push_back(full.turn());
    b.push_back(sparse.turn());
    ratios.push_back(a.back() / b.back());
  }
  const double full_ms = quantile(a, 0.5), sparse_ms = quantile(b, 0.5), speedup = full_ms / sparse_ms;
  return {full_ms, sparse_ms, speedup, std::min(speedup, quantile(ratios, 0.25)),
          std::max(speedup, quantile(ratios, 0.75))};
}

// Values of deviation 1, converted on the device.
Tensor normal(const Shape& shape, DType type, Device device, std::uint64_t seed) {
  RandomStream random(seed);
  std::vector<float> values(shape.numel());
  for (float& v : values) v = static_cast<float>(random.normal());
  return Tensor::of(shape, values).to(device).to(type);
}

// The attention of every layer, one after the other, without anything between.
class AttentionWork : public Work {
 public:
  AttentionWork(const Config& config, std::int64_t batch, const LayerPatternsPtr& patterns)
      : device_(device_of(config)),
        layouts_(patterns->layouts(config.data.seq_len)),
        kv_heads_(config.model.n_kv_heads) {
    const std::int64_t n = config.data.seq_len, h = config.model.n_heads, d = config.model.head_dim;
    qkv_ = Var(normal({batch, n, h + 2 * kv_heads_, d}, compute_dtype(config), device_, 1), true);
    o_grad_ = normal({batch, n, h, d}, compute_dtype(config), device_, 2);
  }
  void call() override {
    for (const LayoutPtr& layout : layouts_) {
      qkv_.zero_grad();
      backward(sparse_attention_qkv(qkv_, kv_heads_, layout), o_grad_);
    }
  }
  void wait() override { synchronize(device_); }

 private:
  Device device_;
  std::vector<LayoutPtr> layouts_;
  std::int64_t kv_heads_;
  Var qkv_;
  Tensor o_grad_;
};

Batch random_batch(const ModelConfig& model, std::int64_t batch, std::int64_t n) {
  RandomStream random(3);
  std::vector<std::int32_t> tokens(batch * n), rows, bounds;
  for (auto& token : tokens)
    token = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(model.vocab_size)));
  for (std::int64_t i = 0; i < batch * n; ++i) rows.insert(rows.end(), {0, static_cast<std::int32_t>(n)});
  for (std::int64_t i = 0; i < batch; ++i) bounds.insert(bounds.end(), {0, static_cast<std::int32_t>(n)});
  Batch out;
  out.inputs = Tensor::of({batch, n}, tokens);
  const bool classifier = model.type == ModelType::encoder_classifier;
  out.targets =
      classifier ? Tensor::of({batch}, std::vector<std::int32_t>(batch, 0)) : Tensor::of({batch, n}, tokens);
  out.row_bounds = Tensor::of({batch, n, 2}, rows);
  out.token_bounds = Tensor::of({batch, 2}, bounds);
  out.n_targets = out.targets.numel();
  out.n_tokens = batch * n;
  return out;
}

// Optimizer steps as the trainer makes them, with a learning rate of 0; nothing is learned.
class StepWork : public Work {
 public:
  StepWork(const Config& config, std::int64_t batch, const LayerPatternsPtr& patterns)
      : model_(Transformer(config.model, 1, device_of(config), DType::f32, compute_dtype(config))
                   .attending_with(fixed_connectivities(patterns))),
        optimizer_(config.train, model_.parameters()),
        stepper_(model_, optimizer_, options(config)),
        batch_(random_batch(config.model, batch, config.data.seq_len)) {}
  void call() override {
    stepper_.submit({batch_}, step_++, 0);
    while (stepper_.next(false)) {
    }
  }
  void wait() override {
    while (stepper_.next(true)) {
    }
    synchronize(model_.device());
  }

 private:
  static StepOptions options(const Config& config) {
    StepOptions options;
    options.clip = config.train.clip;
    options.graph = config.cuda_graph && device_of(config).is_cuda();
    return options;
  }

  Transformer model_;
  Optimizer optimizer_;
  Stepper stepper_;
  Batch batch_;
  std::int64_t step_ = 0;
};

// The request's config for a pattern and a length.
Config config_at(const CrossoverRequest& request, const PatternSpec& pattern, std::int64_t n) {
  Config config = request.config;
  config.pattern = pattern;
  config.data.seq_len = config.model.max_seq_len = n;
  config.model.vocab_size = std::max<std::int64_t>(config.model.vocab_size, 256);
  config.model.n_classes = std::max<std::int64_t>(config.model.n_classes, 2);
  validate_pattern(config);
  return config;
}

template <class W>
std::optional<Timing> measure(const Config& config, std::int64_t batch, const LayerPatternsPtr& full,
                              const LayerPatternsPtr& sparse, int repeats) {
  try {
    W dense(config, batch, full), other(config, batch, sparse);
    return alternate(dense, other, repeats);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::out_of_memory) throw;
    return std::nullopt;
  }
}

double computed_tiles(const std::vector<LayoutPtr>& layouts) {
  double tiles = 0;
  for (const LayoutPtr& layout : layouts) tiles += static_cast<double>(layout->statistics().computed_tiles);
  return tiles;
}

CrossoverPoint measure_point(const CrossoverRequest& request, const PatternSpec& pattern, std::int64_t n) {
  const Config config = config_at(request, pattern, n);
  const std::int64_t tokens = request.tokens > 0 ? request.tokens : request.lengths.back();
  const LayerPatternsPtr sparse = layer_patterns(config);
  const LayerPatternsPtr full = layer_patterns(config_at(request, read_pattern(YamlNode::make("full")), n));
  CrossoverPoint point;
  point.length = n;
  point.batch = std::max<std::int64_t>(1, tokens / n);
  point.tiles_of_full = computed_tiles(sparse->layouts(n)) / computed_tiles(full->layouts(n));
  point.attention = measure<AttentionWork>(config, point.batch, full, sparse, request.repeats);
  point.step = measure<StepWork>(config, point.batch, full, sparse, request.repeats);
  allocator(device_of(config)).release_cached();
  return point;
}

Json timing_json(const std::optional<Timing>& timing) {
  if (!timing) return nullptr;
  return {{"full_ms", timing->full_ms},
          {"sparse_ms", timing->sparse_ms},
          {"speedup", timing->speedup},
          {"speedup_quartiles", {timing->low, timing->high}}};
}

using Part = std::optional<Timing> CrossoverPoint::*;

Break break_of(const Crossover& result, Part part) {
  std::vector<SpeedAt> speeds;
  for (const CrossoverPoint& point : result.points) {
    if (!(point.*part)) continue;
    const Timing& timing = *(point.*part);
    if (point.tiles_of_full < 1)
      speeds.push_back({point.length, timing.speedup, timing.low, timing.high});
    else
      speeds.push_back({point.length, 1, 1, 1});
  }
  return find_break(speeds);
}

Json break_json(const Break& found) {
  if (found.kind == Break::Kind::at || found.kind == Break::Kind::after) return found.length;
  return found.kind == Break::Kind::always ? "below the shortest" : "beyond the longest";
}

}  // namespace

Break find_break(const std::vector<SpeedAt>& speeds) {
  std::size_t first = speeds.size();  // of the faster ones at the end
  while (first > 0 && speeds[first - 1].low > 1) --first;
  if (first == speeds.size()) return {Break::Kind::never, 0, 0};
  if (first == 0) return {Break::Kind::always, 0, 0};
  const SpeedAt &slow = speeds[first - 1], &fast = speeds[first];
  if (slow.high >= 1) return {Break::Kind::after, static_cast<double>(fast.length), slow.length};
  const double share = -std::log(slow.speedup) / (std::log(fast.speedup) - std::log(slow.speedup));
  return {Break::Kind::at,
          std::exp(std::lerp(std::log(static_cast<double>(slow.length)),
                             std::log(static_cast<double>(fast.length)), share)),
          0};
}

std::string break_text(const Crossover& result, Part part) {
  std::vector<std::int64_t> lengths;
  for (const CrossoverPoint& point : result.points)
    if (point.*part) lengths.push_back(point.length);
  if (lengths.empty()) return "not measured: out of memory";
  const Break found = break_of(result, part);
  switch (found.kind) {
    case Break::Kind::always:
      return fmt::format("at every N from {} on", lengths.front());
    case Break::Kind::never:
      return fmt::format("not up to N = {}", lengths.back());
    case Break::Kind::after:
      return fmt::format("from N = {:.0f} on (at {} the difference is within the noise)", found.length,
                         found.before);
    case Break::Kind::at:
      break;
  }
  return fmt::format("from N = {:.0f} on", found.length);
}

std::vector<Crossover> measure_crossover(
    const CrossoverRequest& request,
    const std::function<void(const Crossover&, const CrossoverPoint&)>& done) {
  require(!request.lengths.empty() && std::ranges::is_sorted(request.lengths),
          "the lengths of a crossover must ascend");
  for (const auto& [name, pattern] : request.patterns)  // mistakes before minutes of measuring
    for (const std::int64_t n : request.lengths) config_at(request, pattern, n);
  std::vector<Crossover> results;
  for (const auto& [name, pattern] : request.patterns) {
    results.push_back({name, {}});
    for (const std::int64_t n : request.lengths) {
      results.back().points.push_back(measure_point(request, pattern, n));
      if (done) done(results.back(), results.back().points.back());
    }
  }
  return results;
}

std::string crossover_json(const CrossoverRequest& request, const std::vector<Crossover>& results) {
  const Config& config = request.config;
  const Device device = device_of(config);
  Json patterns = Json::array();
  for (std::size_t r = 0; r < results.size(); ++r) {
    Json points = Json::array();
    for (const CrossoverPoint& p : results[r].points)
      points.push_back({{"length", p.length},
                        {"batch", p.batch},
                        {"tiles_of_full", p.tiles_of_full},
                        {"attention", timing_json(p.attention)},
                        {"step", timing_json(p.step)}});
    patterns.push_back({{"name", results[r].name},
                        {"attention_from", break_json(break_of(results[r], &CrossoverPoint::attention))},
                        {"step_from", break_json(break_of(results[r], &CrossoverPoint::step))},
                        {"points", points}});
  }
  const Json out{{"device", device.is_cuda() ? device_name(Device::cuda())
                                             : fmt::format("cpu, {} threads", n_threads())},
                 {"precision", word(config.precision)},
                 {"tile", config.tile},
                 {"layers", config.model.n_layers},
                 {"heads", config.model.n_heads},
                 {"head_dim", config.model.head_dim},
                 {"dim", config.model.dim},
                 {"patterns", patterns}};
  return out.dump(2) + '\n';
}

std::string crossover_svg(const std::vector<Crossover>& results) {
  std::vector<SpeedChart> charts;
  for (const auto& [part, title] :
       {std::pair(&CrossoverPoint::attention, "Attention alone, forward and backward"),
        std::pair(&CrossoverPoint::step, "A whole training step")}) {
    SpeedChart& chart = charts.emplace_back();
    chart.title = title;
    chart.words = "Speed relative to full attention at the longest sequence:";
    for (std::int64_t r = 0; r < std::ssize(results); ++r) {
      SpeedLine line{results[r].name, r, {}};
      for (const CrossoverPoint& point : results[r].points)
        if (const std::optional<Timing>& timing = point.*part)
          line.points.push_back(
              {static_cast<double>(point.length), timing->speedup, timing->low, timing->high});
      if (line.points.empty()) continue;
      chart.words += fmt::format(" {} {:.2f};", line.label, line.points.back()[1]);
      chart.lines.push_back(std::move(line));
    }
  }
  return speed_charts(charts);
}

}  // namespace filigree
