// Memory-bound ops against a copy by all threads in the same run. "GB/s" counts each tensor read or written
// once; "of_copy" is that over the copy's. f32, 8192 x 768 (24 MiB) unless said.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "core/kernels.h"
#include "core/optimizers/step.h"
#include "core/parallel.h"
#include "core/tensor.h"

namespace filigree {
namespace {

constexpr std::int64_t kRows = 8192, kWidth = 768;
constexpr cpu::Context kCpu;

Tensor noise(const Shape& shape) {
  Tensor t = Tensor::empty(shape);
  RandomStream stream(1);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    t.data<float>()[i] = static_cast<float>(stream.next()) * 0x1p-30f - 2.0f;
  return t;
}

double seconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void copy(const Tensor& from, Tensor& to) {
  const float* source = from.data<float>();
  float* target = to.data<float>();
  parallel_for(from.numel(), 1 << 16, [=](std::int64_t begin, std::int64_t end) {
    std::memcpy(target + begin, source + begin, static_cast<std::size_t>(end - begin) * sizeof(float));
  });
}

// Alternates f with the copy, so that both see the same machine; compares the fastest of each.
void measure(benchmark::State& state, double bytes, const std::function<void()>& f) {
  const Tensor from = noise({kRows, kWidth});
  Tensor to = Tensor::zeros_like(from);
  double best = 1e9, best_copy = 1e9;
  for (auto _ : state) {
    best_copy = std::min(best_copy, seconds([&] { copy(from, to); }));
    const double t = seconds(f);
    best = std::min(best, t);
    state.SetIterationTime(t);
  }
  const double rate = bytes / best, copy_rate = 2.0 * static_cast<double>(from.bytes()) / best_copy;
  state.counters["GB/s"] = rate / 1e9;
  state.counters["of_copy"] = rate / copy_rate;
}

void add_benchmark(const char* name, const std::function<void(benchmark::State&)>& f) {
  benchmark::RegisterBenchmark(name, f)->UseManualTime()->Iterations(20)->Unit(benchmark::kMillisecond);
}

struct Operands {
  Tensor a = noise({kRows, kWidth}), b = noise({kRows, kWidth}), c = noise({kRows, kWidth}),
         d = noise({kRows, kWidth}), e = noise({kRows, kWidth});
  Tensor w = noise({kWidth}), bias = noise({kWidth}), dw = noise({kWidth}), dbias = noise({kWidth});
  Tensor mean = noise({kRows}), rstd = noise({kRows});
  double bytes(int n_tensors) const { return n_tensors * static_cast<double>(a.bytes()); }
};

void register_all() {
  using benchmark::State;
  const auto o = std::make_shared<Operands>();
  add_benchmark("add", [o](State& s) {
    measure(s, o->bytes(3), [&] { map(kCpu, elementwise::Add{}, o->a, o->b, o->c); });
  });
  add_benchmark("add_bias", [o](State& s) {
    measure(s, o->bytes(2), [&] { map(kCpu, elementwise::Add{}, o->a, o->w, o->c); });
  });
  for (const auto kind : {elementwise::Gelu::erf, elementwise::Gelu::tanh}) {
    const std::string name = kind == elementwise::Gelu::erf ? "gelu_erf" : "gelu_tanh";
    add_benchmark((name + "_forward").c_str(), [=](State& s) {
      measure(s, o->bytes(2), [&] { map(kCpu, elementwise::gelu(kind), o->a, o->c); });
    });
    add_benchmark((name + "_backward").c_str(), [=](State& s) {
      measure(s, o->bytes(3), [&] { map(kCpu, elementwise::gelu_gradient(kind), o->a, o->b, o->c); });
    });
  }
  add_benchmark("swiglu_forward", [o](State& s) {
    measure(s, o->bytes(3), [&] { map(kCpu, elementwise::Swiglu{}, o->a, o->b, o->c); });
  });
  add_benchmark("swiglu_backward", [o](State& s) {
    measure(s, o->bytes(5), [&] { swiglu_backward(kCpu, o->a, o->b, o->c, o->d, o->e); });
  });
  add_benchmark("layer_norm_forward", [o](State& s) {
    measure(s, o->bytes(2), [&] { norm_forward(kCpu, o->a, o->w, o->bias, 1e-5, o->c, o->mean, o->rstd); });
  });
  add_benchmark("layer_norm_backward", [o](State& s) {
    measure(s, o->bytes(3), [&] {
      norm_backward(kCpu, o->a, o->b, o->w, o->mean, o->rstd, Tensor{}, o->c, o->dw, o->dbias);
    });
  });
  add_benchmark("softmax_forward",
                [o](State& s) { measure(s, o->bytes(2), [&] { softmax_forward(kCpu, o->a, o->c); }); });
  add_benchmark("dropout", [o](State& s) {
    measure(s, o->bytes(2), [&] { dropout(kCpu, o->a, 0.1, RandomKey{1, 2, 3}, Tensor{}, o->c); });
  });
  add_benchmark("rope_8x1024x12x64", [o](State& s) {
    const Tensor x = o->a.reshape({8, 1024, 12, 64});
    Tensor y = o->c.reshape({8, 1024, 12, 64});
    measure(s, o->bytes(2), [&] { rope(kCpu, x, 12, 1e4, 0, false, y); });
  });
  add_benchmark("adamw", [o](State& s) {
    const std::vector<double> rates = {1e-4, 0.1, 0.05};
    const StepControl control{Tensor::of<double>({3}, rates), Tensor::full({1}, 1, DType::f64),
                              Tensor::zeros({1}, DType::u32), 0};
    const OptimizerTensors tensors{o->a, o->b, {o->c, Tensor::zeros_like(o->a)}, 1, 0.1};
    measure(s, o->bytes(7), [&] { optimizer_step(kCpu, AdamW{}, control, std::span(&tensors, 1)); });
  });
}

}  // namespace
}  // namespace filigree

int main(int argc, char** argv) {
  filigree::register_all();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
