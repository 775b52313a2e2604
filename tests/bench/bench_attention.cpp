// Speed of sparse attention, always as a ratio to something measured in the same run, alternating with it, so
// that a busy or throttled machine slows both. The best of the repetitions counts.
//   build/release/tests/bench/bench_attention
#include <benchmark/benchmark.h>
#include <dnnl.h>
#include <omp.h>

#include <chrono>
#include <functional>
#include <thread>

#include "attention/pattern_spec.h"
#include "attention/sparse_attention.h"
#include "core/parallel.h"
#include "core/random.h"

namespace filigree {
namespace {

constexpr int kRepetitions = 8;

// Starts after a pause: for some milliseconds after a matrix product, OpenMP's threads spin and hold the
// cores.
double seconds(const std::function<void()>& f) {
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// A large-matrix dnnl_sgemm on as many threads as filigree uses.
class LargeMatrix {
 public:
  LargeMatrix() : a_(kSize * kSize, 0.5f), b_(kSize * kSize, 0.25f), c_(kSize * kSize) {
    omp_set_num_threads(n_threads());
  }
  void multiply() {
    dnnl_sgemm('N', 'N', kSize, kSize, kSize, 1.0f, a_.data(), kSize, b_.data(), kSize, 0.0f, c_.data(),
               kSize);
  }
  static constexpr double flops() { return 2.0 * kSize * kSize * kSize; }

 private:
  static constexpr dnnl_dim_t kSize = 2048;
  std::vector<float> a_, b_, c_;
};

// One attention problem, forward and backward.
class Attention {
 public:
  Attention(const std::string& pattern, std::int64_t n, int tile, int n_heads = 4, std::int64_t dim = 64)
      : dim_(dim),
        layout_(std::make_shared<TileLayout>(
            build_layout(*make_pattern(read_pattern(parse_yaml(pattern, "bench")), 0, 1, n_heads),
                         {n, true, tile}, n_heads))) {
    const Shape shape = {1, n, n_heads, dim};
    RandomStream random(7);
    for (Var* x : {&q_, &k_, &v_}) *x = Var(normal(random, shape), true);
    o_grad_ = normal(random, shape);
  }
  double forward() {
    const NoGrad guard;
    return seconds([&] { benchmark::DoNotOptimize(sparse_attention(q_, k_, v_, layout_)); });
  }
  double backward() {
    const Var o = sparse_attention(q_, k_, v_, layout_);
    for (Var* x : {&q_, &k_, &v_}) x->zero_grad();
    return seconds([&] { filigree::backward(o, o_grad_); });
  }
  double run(bool back) { return back ? backward() : forward(); }
  // Of the computed tiles: 2 products forward, 5 backward.
  double flops(bool back) const {
    const double pairs =
        static_cast<double>(layout_->statistics().computed_tiles) * layout_->tile() * layout_->tile();
    return (back ? 10.0 : 4.0) * static_cast<double>(dim_) * pairs;
  }

 private:
  static Tensor normal(RandomStream& random, const Shape& shape) {
    Tensor t = Tensor::empty(shape);
    for (std::int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(random.normal());
    return t;
  }
  std::int64_t dim_;
  LayoutPtr layout_;
  Var q_, k_, v_;
  Tensor o_grad_;
};

// Best times of two alternating measurements.
std::pair<double, double> best_of(benchmark::State& state, const std::function<double()>& a,
                                  const std::function<double()>& b) {
  double best_a = 1e30, best_b = 1e30;
  for (auto _ : state) {
    best_a = std::min(best_a, a());
    const double t = b();
    best_b = std::min(best_b, t);
    state.SetIterationTime(t);
  }
  return {best_a, best_b};
}

// Rate on computed tiles relative to a large-matrix dnnl_sgemm; argument: tile edge.
void computed_tiles(benchmark::State& state, const std::string& pattern, bool back) {
  LargeMatrix matrix;
  Attention attention(pattern, 2048, static_cast<int>(state.range(0)));
  const auto [t_matrix, t_attention] = best_of(
      state, [&] { return seconds([&] { matrix.multiply(); }); }, [&] { return attention.run(back); });
  const double matrix_rate = LargeMatrix::flops() / t_matrix, rate = attention.flops(back) / t_attention;
  state.counters["sgemm_GFLOPs"] = matrix_rate * 1e-9;
  state.counters["GFLOPs"] = rate * 1e-9;
  state.counters["ratio"] = rate / matrix_rate;
}

// Cost of `pattern` at n relative to that of `base` at base_n; argument: tile edge.
void relative_cost(benchmark::State& state, const std::string& base, std::int64_t base_n,
                   const std::string& pattern, std::int64_t n, bool back) {
  Attention denominator(base, base_n, static_cast<int>(state.range(0)));
  Attention numerator(pattern, n, static_cast<int>(state.range(0)));
  const auto [t_base, t] = best_of(
      state, [&] { return denominator.run(back); }, [&] { return numerator.run(back); });
  state.counters["ms"] = t * 1e3;
  state.counters["base_ms"] = t_base * 1e3;
  state.counters["ratio"] = t / t_base;
}

void with_tile(benchmark::internal::Benchmark* b, std::initializer_list<int> tiles) {
  for (const int tile : tiles) b->Arg(tile);
  b->UseManualTime()->Iterations(kRepetitions)->Unit(benchmark::kMillisecond);
}

const bool registered = [] {
  const std::string full = "{full: {}}", window = "{local: {window: 256}}";
  for (const bool back : {false, true}) {
    const std::string pass = back ? "backward" : "forward";
    const auto add = [&](const std::string& name, auto&&... arguments) {
      return benchmark::RegisterBenchmark((pass + "/" + name).c_str(), arguments...);
    };
    with_tile(add("computed_tiles_full", computed_tiles, full, back), {16, 32, 64, 128});
    with_tile(add("computed_tiles_window_256", computed_tiles, window, back), {16, 32, 64, 128});
    with_tile(add("window_256_over_full_at_8192", relative_cost, full, 8192, window, 8192, back), {64});
    with_tile(add("window_256_at_32768_over_8192", relative_cost, window, 8192, window, 32768, back), {64});
  }
  return true;
}();

}  // namespace
}  // namespace filigree

BENCHMARK_MAIN();
