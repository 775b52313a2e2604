// The core's blocked product against one dnnl_sgemm call on all threads, at the shapes of a GPT: forward
// (x w^T), gradient of x (dy w), gradient of w (dy^T x). The counter `ratio` is ours / oneDNN's in this run.
#include <benchmark/benchmark.h>
#include <dnnl.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/cpu/gemm.h"
#include "core/parallel.h"

namespace {

using filigree::cpu::gemm;
using std::int64_t;

template <class F>
double seconds(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void product(benchmark::State& state, bool ta, bool tb, int64_t m, int64_t n, int64_t k) {
  const std::vector<float> a(static_cast<std::size_t>(m * k), 0.5f),
      b(static_cast<std::size_t>(k * n), 0.25f);
  std::vector<float> c(static_cast<std::size_t>(m * n));
  const int64_t lda = ta ? m : k, ldb = tb ? k : n;
  omp_set_num_threads(filigree::n_threads());
  double ours = 1e30, theirs = 1e30;  // the best of each, taken in turn: other load hits both
  for (auto _ : state) {
    const double s =
        seconds([&] { gemm<float>(ta, tb, m, n, k, 1, a.data(), lda, b.data(), ldb, 0, c.data(), n); });
    state.SetIterationTime(s);
    ours = std::min(ours, s);
    theirs = std::min(theirs, seconds([&] {
                        dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 1, a.data(), lda, b.data(), ldb,
                                   0, c.data(), n);
                      }));
  }
  const double flops = 2e-9 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  state.counters["GFLOPS"] = flops / ours;
  state.counters["dnnl_GFLOPS"] = flops / theirs;
  state.counters["ratio"] = theirs / ours;
}

void forward(benchmark::State& s) {
  product(s, false, true, s.range(0), s.range(1), s.range(2));
}
void backward_x(benchmark::State& s) {
  product(s, false, false, s.range(0), s.range(2), s.range(1));
}
void backward_w(benchmark::State& s) {
  product(s, true, false, s.range(1), s.range(2), s.range(0));
}

void shapes(benchmark::internal::Benchmark* b) {  // tokens, out, in
  b->Args({1024, 384, 384})->Args({1024, 1536, 384})->Args({1024, 384, 1536})->Args({4096, 768, 768});
  b->Args({8192, 256, 1024})->Args({2048, 2048, 2048})->UseManualTime()->MinTime(0.2);
}
BENCHMARK(forward)->Apply(shapes);
BENCHMARK(backward_x)->Apply(shapes);
BENCHMARK(backward_w)->Apply(shapes);

}  // namespace

BENCHMARK_MAIN();
