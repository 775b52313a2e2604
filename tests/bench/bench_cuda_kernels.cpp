// Every kernel of a training step on the GPU at the sizes of a GPT-2 124M step of 65,536 tokens, and how far
// it is from its floor: bytes over the rate of a large copy, or FLOPs over that of a large product, in the
// same run.
#include <fmt/format.h>

#include "core/kernels.h"
#include "core/optimizers/step.h"
#include "tests/bench/bench_cuda.h"

namespace filigree {
namespace {

constexpr std::int64_t kRows = 65536, kDim = 768, kHidden = 3072, kVocab = 50304, kLogitRows = 5120;
double copy_bytes_per_ms = 0, flops_per_ms = 0;

Tensor bf16s(const Shape& shape, std::uint64_t seed) {
  return random_on_device(shape, DType::bf16, seed);
}
Tensor f32s(const Shape& shape, std::uint64_t seed) {
  return random_on_device(shape, DType::f32, seed);
}

template <class F>
void line(const char* name, double bytes, double flops, F&& f) {
  const double ms = median_ms([&] { on_device(Device::cuda(), f); });
  const double floor = std::max(bytes / copy_bytes_per_ms, flops / flops_per_ms);
  fmt::print("{:<28} {:8.4f} ms  floor {:8.4f}  {:5.2f} of it  {:6.0f} GB/s  {:6.1f} TFLOP/s\n", name, ms,
             floor, floor / ms, bytes / ms / 1e6, flops / ms / 1e9);
  std::fflush(stdout);
}

void measure_ceilings() {
  const Tensor big = f32s({1 << 15, 1 << 14}, 1);
  Tensor to = Tensor::empty_like(big);
  copy_bytes_per_ms = 2.0 * static_cast<double>(big.bytes()) / median_ms([&] { to.copy_from(big); });
  flops_per_ms = measure_matrix_rate(Device::cuda(), DType::bf16) / 1e3;
  fmt::print("{}: copy {:.2f} TB/s, product of 8192^3 in bf16 {:.0f} TFLOP/s\n", device_name(Device::cuda()),
             copy_bytes_per_ms / 1e9, flops_per_ms / 1e9);
}

void memory_bound() {
  const double row = 2.0 * kRows * kDim, wide = 2.0 * kRows * kHidden;  // bytes in bf16
  const Tensor x = bf16s({kRows, kDim}, 1), branch = bf16s({kRows, kDim}, 2), w = f32s({kDim}, 3),
               b = f32s({kDim}, 4);
  Tensor sum = Tensor::empty_like(x), y = Tensor::empty_like(x), dx = Tensor::empty_like(x);
  Tensor mean = Tensor::empty({kRows}, DType::f32, Device::cuda()), rstd = Tensor::empty_like(mean);
  Tensor dw = Tensor::empty_like(w), db = Tensor::empty_like(b);
  line("norm forward", 2 * row, 0, [&](auto c) { norm_forward(c, x, w, b, 1e-5, y, mean, rstd); });
  line("residual + norm forward", 4 * row, 0,
       [&](auto c) { add_norm_forward(c, x, branch, w, b, 1e-5, sum, y, mean, rstd); });
  line("residual + norm backward", 4 * row, 0,
       [&](auto c) { norm_backward(c, branch, x, w, mean, rstd, y, dx, dw, db); });
  line("add", 3 * row, 0, [&](auto c) { map(c, elementwise::Add{}, x, branch, y); });
  const Tensor h = bf16s({kRows, kHidden}, 5), g = bf16s({kRows, kHidden}, 6);
  Tensor act = Tensor::empty_like(h), dh = Tensor::empty_like(h);
  line("gelu forward", 2 * wide, 0, [&](auto c) { map(c, elementwise::GeluTanh{}, h, act); });
  line("gelu backward", 3 * wide, 0, [&](auto c) { map(c, elementwise::GeluTanhGradient{}, g, h, dh); });
  line("swiglu forward", 3 * wide, 0, [&](auto c) { map(c, elementwise::Swiglu{}, h, g, act); });
  line("swiglu backward", 5 * wide, 0, [&](auto c) { swiglu_backward(c, act, h, g, dh, act); });
  Tensor bias = Tensor::empty({kHidden}, DType::f32, Device::cuda());
  line("bias gradient", wide, 0, [&](auto c) { sum_leading(c, h, bias); });
  Tensor qkv = bf16s({4, kRows / 4, 36, 64}, 7);
  line("rope of q and k in place", 2 * 2 * row, 0, [&](auto c) { rope(c, qkv, 24, 1e4, 0, false, qkv); });
  line("dropout", 2 * row, 0, [&](auto c) { dropout(c, x, 0.1, RandomKey{1, 2, 3}, Tensor{}, y); });
}

void model_ends() {
  RandomStream random(3);
  const auto ids = [&](std::int64_t n) {
    std::vector<std::int32_t> v(static_cast<std::size_t>(n));
    for (auto& i : v) i = static_cast<std::int32_t>(random.below(kVocab));
    return Tensor::of({n}, v, Device::cuda());
  };
  const Tensor tokens = ids(kRows), targets = ids(kLogitRows);
  const Tensor table = f32s({kVocab, kDim}, 1);
  Tensor x = Tensor::empty({kRows, kDim}, DType::bf16, Device::cuda()), dtable = Tensor::empty_like(table);
  const double row = 2.0 * kRows * kDim;
  line("embedding forward", 3 * row, 0, [&](auto c) { embedding_forward(c, table, tokens, x); });
  line("embedding backward", row + static_cast<double>(dtable.bytes()), 0,
       [&](auto c) { embedding_backward(c, x, tokens, dtable); });
  Tensor logits = bf16s({kLogitRows, kVocab}, 2),
         losses = Tensor::empty({kLogitRows}, DType::f32, Device::cuda());
  const Tensor divisor = Tensor::full({1}, 1e5, DType::f64, Device::cuda());
  line("cross-entropy and dlogits", 2.0 * static_cast<double>(logits.bytes()), 0,
       [&](auto c) { cross_entropy_in_place(c, targets, divisor, logits, losses); });
  std::vector<OptimizerTensors> parameters;
  for (int layer = 0; layer < 12; ++layer)
    for (const Shape& shape : {Shape{3 * kDim, kDim}, Shape{kDim, kDim}, Shape{kHidden, kDim},
                               Shape{kDim, kHidden}, Shape{kDim}, Shape{kHidden}}) {
      const Tensor t = Tensor::zeros(shape, DType::f32, Device::cuda());
      parameters.push_back({f32s(shape.rank() == 1 ? Shape{1, shape[0]} : shape, 9).reshape(shape),
                            t.clone(),
                            {t.clone(), t.clone()},
                            1,
                            0.1});
    }
  double count = 0;
  std::vector<Tensor> grads;
  for (const auto& p : parameters) {
    count += static_cast<double>(p.w.numel());
    grads.push_back(p.grad);
  }
  Tensor squares = Tensor::empty({1}, DType::f64, Device::cuda());
  line("gradient norm", 4 * count, 0, [&](auto c) { sum_of_squares(c, grads, squares); });
  const std::vector<double> rates = {3e-4, 0.1, 0.05};
  const StepControl control{Tensor::of({3}, rates, Device::cuda()), squares,
                            Tensor::zeros({1}, DType::u32, Device::cuda()), 1};
  line("AdamW, all tensors", 28 * count, 0, [&](auto c) { optimizer_step(c, AdamW{}, control, parameters); });
}

void products() {
  const auto product = [&](const char* name, std::int64_t in, std::int64_t out, bool gelu) {
    const Tensor x = bf16s({kRows, in}, 1), w = bf16s({out, in}, 2), b = bf16s({1, out}, 3).reshape({out});
    const Tensor dy = bf16s({kRows, out}, 4);
    Tensor y = Tensor::empty_like(dy), before = Tensor::empty_like(dy), dx = Tensor::empty_like(x);
    Tensor dw = Tensor::empty({out, in}, DType::f32, Device::cuda());
    Tensor db = Tensor::empty({out}, DType::f32, Device::cuda());
    const double flops = 2.0 * kRows * static_cast<double>(in * out);
    fmt::print("{} [{}, {}]\n", name, out, in);
    if (gelu)
      line("  forward with gelu", 0, flops,
           [&](auto c) { linear_gelu(c, x, w, b, ops::Gelu::tanh, before, y); });
    else
      line("  forward", 0, flops, [&](auto c) { linear(c, x, w, b, y); });
    line("  gradient of x", 0, flops, [&](auto c) { matmul(c, dy, w, false, false, 0, dx); });
    line("  gradients of w and b", 0, flops, [&](auto c) { linear_backward_weight(c, dy, x, 0, dw, db); });
  };
  product("qkv", kDim, 3 * kDim, false);
  product("attention out", kDim, kDim, false);
  product("mlp up", kDim, kHidden, true);
  product("mlp down", kHidden, kDim, false);
  const Tensor dy = bf16s({kRows, kDim}, 1), w = bf16s({kDim, kHidden}, 2),
               before = bf16s({kRows, kHidden}, 3);
  Tensor dbefore = Tensor::empty_like(before);
  line("  gradient through gelu", 0, 2.0 * kRows * kDim * kHidden,
       [&](auto c) { matmul_gelu_backward(c, dy, w, before, ops::Gelu::tanh, dbefore); });
  const Tensor x = bf16s({kLogitRows, kDim}, 4), head = bf16s({kVocab, kDim}, 5);
  Tensor logits = Tensor::empty({kLogitRows, kVocab}, DType::bf16, Device::cuda()),
         dx = Tensor::empty_like(x);
  Tensor dhead = Tensor::zeros({kVocab, kDim}, DType::f32, Device::cuda());
  const double flops = 2.0 * kLogitRows * kDim * static_cast<double>(kVocab);
  fmt::print("head, {} rows\n", kLogitRows);
  line("  forward", 0, flops, [&](auto c) { linear(c, x, head, Tensor{}, logits); });
  line("  gradient of x", 0, flops, [&](auto c) { matmul(c, logits, head, false, false, 0, dx); });
  line("  gradient of w, added", 0, flops, [&](auto c) { matmul(c, logits, x, true, false, 1, dhead); });
}

}  // namespace
}  // namespace filigree

int main() {
  using namespace filigree;
  if (!have_cuda()) return 1;
  measure_ceilings();
  memory_bound();
  model_ends();
  products();
}
