// Time per token and memory of the keys and values kept, as a text grows: dim 256, 4 layers, 4 heads, rope.
//   bench_decode [THREADS]
// The cache is filled with random keys and values, as if a text of that length had been read.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "attention/pattern_spec.h"
#include "core/parallel.h"
#include "layers/decoder_cache.h"
#include "layers/transformer.h"

namespace filigree {
namespace {

constexpr std::int64_t kTokens = 64;  // made at each length

// Of all threads, which does not count who else uses the machine.
double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds_of(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

ModelConfig shape() {
  ModelConfig c;
  c.dim = 256;
  c.n_layers = 4;
  c.n_heads = 4;
  c.vocab_size = 8192;
  c.positions = Positions::rope;
  return c;
}

Transformer with_pattern(const Transformer& model, const std::string& pattern, std::int64_t n) {
  const ModelConfig& c = model.config();
  return model.attending_with(fixed_connectivities(std::make_shared<const LayerPatterns>(
      make_layer_patterns(read_pattern(parse_yaml(pattern, "bench")), c.n_layers, c.n_heads),
      Geometry{n, true, 64}, c.n_heads)));
}

Tensor random_heads(std::int64_t n, const ModelConfig& c) {
  Tensor t = Tensor::empty({1, n, c.n_kv_heads, c.head_dim});
  RandomStream random(7);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    t.data<float>()[i] = static_cast<float>(random.uniform() - 0.5);
  return t;
}

void measure(const Transformer& any, const std::string& pattern, std::int64_t n, std::int64_t texts) {
  const ModelConfig& c = any.config();
  const Transformer model = with_pattern(any, pattern, n + kTokens);
  DecoderCache cache(model, n + kTokens, texts);
  {
    const Heads heads = Heads::all(random_heads(n, c));
    for (int layer = 0; layer < c.n_layers; ++layer)
      for (std::int64_t s = 0; s < texts; ++s)
        cache.layer(static_cast<std::size_t>(layer)).kept.begin(s, heads, heads, n);
  }
  std::vector<std::int64_t> all;
  for (std::int64_t s = 0; s < texts; ++s) all.push_back(s);
  std::vector<double> seconds;
  std::int64_t most = cache.bytes();
  const double cpu_before = cpu_seconds();
  for (std::int64_t i = 0; i < kTokens; ++i) {
    const Tensor tokens = Tensor::of({texts}, std::vector<std::int32_t>(static_cast<std::size_t>(texts), 5));
    seconds.push_back(seconds_of([&] { model.next_token(tokens, all, cache); }));
    most = std::max(most, cache.bytes());
  }
  const double cpu = (cpu_seconds() - cpu_before) / kTokens;
  std::ranges::sort(seconds);
  const double median = seconds[seconds.size() / 2];
  std::printf(
      "%-40s %7lld tokens, %lld texts  %8.3f ms a step (%.3f ms of CPU)  %6.0f tokens/s  kept %8.2f MiB\n",
      pattern.c_str(), static_cast<long long>(n), static_cast<long long>(texts), median * 1e3, cpu * 1e3,
      static_cast<double>(texts) / median, static_cast<double>(most) / (1 << 20));
  std::fflush(stdout);
}

void recomputed(const Transformer& any, const std::string& pattern, std::int64_t n) {
  const NoGrad no_tape;
  const Transformer model = with_pattern(any, pattern, n);
  const ModelInput input{Tensor::zeros({1, n}, DType::i32), {}, {}};
  std::vector<double> seconds;
  for (int i = 0; i < 5; ++i) seconds.push_back(seconds_of([&] { model.logits_at(input, n - 1, {}); }));
  std::ranges::sort(seconds);
  std::printf("%-40s %7lld tokens, computed anew %.1f ms a token\n", pattern.c_str(),
              static_cast<long long>(n), seconds[2] * 1e3);
}

}  // namespace
}  // namespace filigree

int main(int argc, char** argv) {
  using namespace filigree;
  if (argc > 1) set_n_threads(std::stoi(argv[1]));
  const Transformer model(shape(), 1);
  std::printf("threads %d, %lld parameters\n", n_threads(),
              static_cast<long long>(Transformer(shape(), 1, Device::meta()).parameter_count()));
  for (const char* pattern :
       {"{local: {window: 256}}", "{longformer: {window: 256, global: 64}}", "{full: {}}"})
    for (const std::int64_t n : {1024, 16384, 131072}) measure(model, pattern, n, 1);
  for (const std::int64_t texts : {2, 8, 32}) measure(model, "{local: {window: 256}}", 1024, texts);
  for (const std::int64_t n : {1024, 16384}) recomputed(model, "{local: {window: 256}}", n);
}
