// Kernels on a GPU whose results are exact or have special cases: random bits, conversions, reductions over
// many tensors, optimizer steps, values that are not finite, wrong ids, and tensors of more than 2^31
// elements.
#include "core/kernels.h"
#include "core/optimizers/step.h"
#include "tests/cuda_device.h"
#include "tests/op_cases.h"

namespace filigree {
namespace {

using std::int64_t;

class CudaKernels : public CudaTest {
 protected:
  Tensor there(const Tensor& t) const { return t.to(device); }
  static Tensor here(const Tensor& t) { return t.to(Device::cpu()); }
};

// --- random bits ---

TEST_F(CudaKernels, DropoutHasTheBitsOfTheCpu) {
  Random random(test_seed(), 220);
  for (const int64_t n : {1, 3, 4, 5, 1023, 40003})
    for (const double p : {0.1, 0.5, 0.9}) {
      const RandomKey key{test_seed(), static_cast<std::uint32_t>(n), 0xfffffffeu};
      const Tensor x = random.normal({n}, DType::f32), dy = random.normal({n}, DType::f32);
      for (const std::uint32_t step : {0u, 5u}) {  // with 5 the counter wraps round
        const Tensor steps = Tensor::full({1}, step, DType::u32);
        const Var on_cpu(x, true), on_gpu(there(x), true);
        const Var a = ops::dropout(on_cpu, p, key, steps), b = ops::dropout(on_gpu, p, key, there(steps));
        backward(a, dy);
        backward(b, there(dy));
        EXPECT_TRUE(bitwise_equal(a.value(), here(b.value()))) << n << ' ' << p;
        EXPECT_TRUE(bitwise_equal(on_cpu.grad(), here(on_gpu.grad()))) << n << ' ' << p;
      }
      const Tensor ones = Tensor::full({n}, 1);
      EXPECT_TRUE(bitwise_equal(ops::dropout(Var(ones), p, key).value(),
                                here(ops::dropout(Var(there(ones)), p, key).value())));
    }
}

// --- conversions ---

void expect_same_values(const Tensor& a, const Tensor& b) {
  ASSERT_EQ(a.dtype(), b.dtype());
  for (int64_t i = 0; i < a.numel(); ++i) {
    if (std::isnan(a.item(i)) && std::isnan(b.item(i))) continue;  // of any bits
    ASSERT_EQ(a.item(i), b.item(i)) << "element " << i;
    ASSERT_EQ(std::signbit(a.item(i)), std::signbit(b.item(i))) << "element " << i;
  }
}

TEST_F(CudaKernels, ConversionsRoundLikeTheCpu) {
  Random random(test_seed(), 221);
  // Ties, overflow, what is subnormal in bf16 and f32, and no numbers.
  const std::vector<double> special = {0.0,       -0.0,     1 + 0x1p-8, 1 + 3 * 0x1p-8, 3.4e38,
                                       -3.39e38,  0x1p-130, 0x1p-149,   0x1.8p-134,     1e300,
                                       -INFINITY, INFINITY, NAN};
  Tensor x = random.normal({40013});
  std::ranges::copy(special, x.data<double>() + 17);
  for (const DType from : {DType::f64, DType::f32, DType::bf16})
    for (const DType to : {DType::f64, DType::f32, DType::bf16}) {
      SCOPED_TRACE(fmt::format("{} to {}", dtype_name(from), dtype_name(to)));
      const Tensor start = x.to(from);
      expect_same_values(here(there(start).to(to)), start.to(to));
      const Tensor behind = start.slice(3, 40000);  // not aligned
      expect_same_values(here(there(start).slice(3, 40000).to(to)), behind.to(to));
    }
}

TEST_F(CudaKernels, FillsEveryDtype) {
  for (const DType type :
       {DType::f32, DType::f64, DType::bf16, DType::i32, DType::i64, DType::u8, DType::u16, DType::u32})
    for (const int64_t n : {0, 1, 7, 100003})
      EXPECT_TRUE(bitwise_equal(here(Tensor::full({n}, 77, type, device)), Tensor::full({n}, 77, type)));
}

// --- in place, and reductions over many tensors ---

TEST_F(CudaKernels, InPlaceArithmetic) {
  Random random(test_seed(), 222);
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t n : {0, 1, 7, 16384, 50001}) {
      const Tensor x = random.normal({n}, DType::bf16), y = random.normal({n}, DType::bf16);
      const Tensor x64 = x.to(DType::f64), y64 = y.to(DType::f64);
      Tensor z = there(x).to(type);
      ops::add_in_place(z, there(y).to(type));
      Tensor doubled = z.clone();
      ops::scale_in_place(doubled, -2);  // exact
      const Tensor sum = ops::add(Var(x64), Var(y64)).value().to(type);
      EXPECT_TRUE(bitwise_equal(here(z), sum)) << dtype_name(type) << ' ' << n;
      EXPECT_TRUE(bitwise_equal(here(doubled), ops::scale(Var(sum.to(DType::f64)), -2).value().to(type)));
    }
}

// More than one launch takes, of all sizes.
std::vector<Tensor> many_tensors(Random& random, DType type, int n) {
  std::vector<Tensor> tensors;
  for (int i = 0; i < n; ++i)
    tensors.push_back(
        random.normal({i % 100 == 7 ? random.range(50000, 200000) : random.range(0, 300)}, type));
  return tensors;
}

TEST_F(CudaKernels, SumOfSquaresOfManyTensors) {
  Random random(test_seed(), 223);
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    const std::vector<Tensor> tensors = many_tensors(random, type, 1203);
    std::vector<Tensor> on_gpu;
    double exact = 0;
    for (const Tensor& t : tensors) {
      on_gpu.push_back(there(t));
      const Tensor wide = t.to(DType::f64);
      for (const double v : wide.values<double>()) exact += v * v;
    }
    const Tensor first = here(ops::sum_of_squares(on_gpu, device));
    EXPECT_NEAR(first.item(), exact, 1e-12 * exact) << dtype_name(type);
    EXPECT_TRUE(bitwise_equal(first, here(ops::sum_of_squares(on_gpu, device))));
    EXPECT_EQ(ops::sum_of_squares(std::span<const Tensor>(), device).item(), 0);

    // Squares that f32 cannot hold are finite; what is not finite shows, wherever it is.
    const Tensor great = Tensor::full({1001}, 1e30, type, device);
    EXPECT_NEAR(ops::sum_of_squares(great), 1001e60, 1e-2 * 1001e60);
    for (const double bad : {double{NAN}, double{INFINITY}}) {
      const auto tensor = static_cast<std::size_t>(100 * random.range(0, 11) + 7);  // a long one
      Tensor broken = on_gpu[tensor].clone();
      const int64_t where = random.range(0, broken.numel() - 1);
      broken.slice(where, where + 1).copy_from(Tensor::full({1}, bad, type, device));
      std::vector<Tensor> with = on_gpu;
      with[tensor] = broken;
      EXPECT_FALSE(std::isfinite(ops::sum_of_squares(with, device).item()));
      EXPECT_FALSE(ops::all_finite(broken));
    }
  }
}

TEST_F(CudaKernels, AllFiniteFindsOneElement) {
  Random random(test_seed(), 224);
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t n : {1, 7, 4096, 100001}) {
      const Tensor x = random.normal({n}, type);
      EXPECT_TRUE(ops::all_finite(there(x)));
      for (const double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}})
        for (const int64_t where : {int64_t{0}, n - 1, random.range(0, n - 1)}) {
          Tensor t = x.clone();
          t.slice(where, where + 1).copy_from(Tensor::full({1}, bad, type));
          EXPECT_FALSE(ops::all_finite(there(t))) << bad << " at " << where << " of " << n;
        }
    }
  EXPECT_TRUE(ops::all_finite(Tensor::empty({0}, DType::f32, device)));
}

TEST_F(CudaKernels, LongSumsAreAccurate) {
  const Var ones(Tensor::full({(1 << 24) + 4096}, 1, DType::f32, device));
  EXPECT_EQ(ops::sum(ones).value().item(), (1 << 24) + 4096);
}

// --- optimizers ---

// Parameters of both dtypes, some without alignment, each with its own rate and decay.
std::vector<OptimizerTensors> parameters(Random& random, int n, bool with_m, bool with_v) {
  std::vector<OptimizerTensors> all;
  for (int i = 0; i < n; ++i) {
    const DType type = i % 5 == 3 ? DType::f64 : DType::f32;
    const int64_t size = i % 100 == 7 ? random.range(50000, 200000) : random.range(0, 300);
    OptimizerTensors t;
    t.w = random.normal({size}, type);
    t.grad = random.normal({size}, type);
    if (with_m) t.state[0] = random.normal({size}, type);
    if (with_v) t.state[1] = random.uniform({size}, 0.1, 1, type);
    t.lr_factor = 0.5 + random.stream().uniform();
    t.weight_decay = i % 2 ? 0.1 : 0;
    all.push_back(t);
  }
  return all;
}

std::vector<OptimizerTensors> moved(const std::vector<OptimizerTensors>& all, Device device) {
  const auto to = [&](const Tensor& t, bool aligned) {
    if (!t.defined()) return t;
    if (aligned) return t.to(device).clone();
    Tensor room = Tensor::empty({t.numel() + 1}, t.dtype(), device);
    Tensor view = room.slice(1, t.numel() + 1);
    view.copy_from(t);
    return view;
  };
  std::vector<OptimizerTensors> result = all;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool aligned = device.is_cpu() || i % 3;
    result[i].w = to(all[i].w, aligned);
    result[i].grad = to(all[i].grad, aligned);
    for (std::size_t s = 0; s < kMostState; ++s) result[i].state[s] = to(all[i].state[s], aligned);
  }
  return result;
}

StepControl control(Device device, int step, double norm, double clip, bool halted = false) {
  const std::vector<double> rates = {0.01, 1 - std::pow(0.9, step), 1 - std::pow(0.95, step)};
  return {Tensor::of<double>({3}, rates, device), Tensor::full({1}, norm * norm, DType::f64, device),
          Tensor::full({1}, halted, DType::u32, device), clip};
}

// The tensors that a step writes.
std::vector<Tensor> written(const OptimizerTensors& t) {
  std::vector<Tensor> all{t.w};
  for (const Tensor& s : t.state)
    if (s.defined()) all.push_back(s);
  return all;
}

void expect_close(const std::vector<OptimizerTensors>& x, const std::vector<OptimizerTensors>& exact) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double error = x[i].w.dtype() == DType::f64 ? 1e-13 : 2e-6;
    const auto got = written(x[i]), want = written(exact[i]);
    for (std::size_t t = 0; t < got.size(); ++t)
      EXPECT_LE(relative_error(got[t].to(Device::cpu()), want[t], 1), error) << "tensor " << i;
  }
}

bool same_bits(const std::vector<OptimizerTensors>& a, const std::vector<OptimizerTensors>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t t = 0; t < written(a[i]).size(); ++t)
      if (!bitwise_equal(written(a[i])[t].to(Device::cpu()), written(b[i])[t].to(Device::cpu())))
        return false;
  return true;
}

// Three steps of f(device, step, tensors) on both devices, and a halted one.
template <class Step>
void check_steps(const std::vector<OptimizerTensors>& start, Device device, Step&& step) {
  const auto after = [&](Device where, bool halted) {
    std::vector<OptimizerTensors> tensors = moved(start, where);
    for (int i = 1; i <= 3; ++i)
      step(where, control(where, i, i == 2 ? 8 : 0.1, 2, halted), tensors);  // the second is clipped
    return tensors;
  };
  const auto on_gpu = after(device, false);
  expect_close(on_gpu, after(Device::cpu(), false));
  EXPECT_TRUE(same_bits(on_gpu, after(device, false))) << "two runs differ";
  EXPECT_TRUE(same_bits(start, after(device, true))) << "a halted step wrote";
}

TEST_F(CudaKernels, AdamWOverManyTensors) {
  Random random(test_seed(), 225);
  check_steps(parameters(random, 1203, true, true), device,
              [](Device where, const StepControl& control, std::span<const OptimizerTensors> tensors) {
                on_device(where, [&](auto context) { optimizer_step(context, AdamW{}, control, tensors); });
              });
}

TEST_F(CudaKernels, SgdOverManyTensors) {
  Random random(test_seed(), 226);
  for (const double momentum : {0.0, 0.9})
    check_steps(parameters(random, 703, momentum > 0, false), device,
                [=](Device where, const StepControl& control, std::span<const OptimizerTensors> tensors) {
                  const OptimizerRule rule =
                      momentum > 0 ? OptimizerRule(MomentumSgd{momentum}) : OptimizerRule(Sgd{});
                  on_device(where, [&](auto context) { optimizer_step(context, rule, control, tensors); });
                });
}

TEST_F(CudaKernels, HaltsOnceAndForAll) {
  for (const double bad : {double{NAN}, double{INFINITY}})
    for (const bool in_loss : {true, false}) {
      Tensor halted = Tensor::zeros({1}, DType::u32, device);
      const auto see = [&](double loss, double squares) {
        on_device(device, [&](auto context) {
          halt_if_not_finite(context, Tensor::full({1}, loss, DType::f32, device),
                             Tensor::full({1}, squares, DType::f64, device), halted);
        });
        return halted.item();
      };
      EXPECT_EQ(see(3, 1e300), 0);
      EXPECT_EQ(see(in_loss ? bad : 3, in_loss ? 4 : bad), 1);
      EXPECT_EQ(see(3, 4), 1);
    }
}

// --- what is not finite, and wrong ids ---

TEST_F(CudaKernels, NotANumberShowsInEveryElementwiseOp) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const OpCase& c : op_cases::elementwise()) {
      SCOPED_TRACE(fmt::format("{} in {}", c.name, dtype_name(type)));
      Random random(test_seed(), 227);
      std::vector<Tensor> inputs = c.inputs(random, {23});
      const Tensor clean = here(run_op(c, inputs, type, device)[0]);
      for (int64_t i = 0; i < 23; ++i) EXPECT_FALSE(std::isnan(clean.item(i)));
      inputs[0].data<double>()[5] = NAN;
      inputs[0].data<double>()[22] = NAN;
      const bool shows = std::isnan(run_op(c, inputs, DType::f64)[0].item(5));  // on the CPU
      const Tensor y = here(run_op(c, inputs, type, device)[0]);
      for (int64_t i = 0; i < 23; ++i) EXPECT_EQ(std::isnan(y.item(i)), shows && (i == 5 || i == 22)) << i;
    }
}

TEST_F(CudaKernels, HugeArgumentsStayFinite) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const OpCase& c : op_cases::elementwise()) {
      const bool bounded = c.name == "sigmoid" || c.name == "silu" || c.name == "swiglu" ||
                           c.name == "gelu_erf" || c.name == "gelu_tanh" || c.name == "clamp";
      if (!bounded) continue;
      Random random(test_seed(), 228);
      std::vector<Tensor> inputs = c.inputs(random, {6});
      inputs[0] = Tensor::of<double>({6}, {-1e4, -100, -20, 20, 100, 1e4});
      for (const Tensor& t : run_op(c, inputs, type, device))
        EXPECT_TRUE(ops::all_finite(t)) << c.name << " in " << dtype_name(type);
    }
}

TEST_F(CudaKernels, SoftmaxOfInfinitiesAndNaN) {
  const double inf = INFINITY;
  const Tensor x =
      Tensor::of<double>({4, 3}, {-inf, -inf, -inf, -inf, 0, 0, 500, -500, 500, -inf, NAN, -inf});
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    const Var leaf(there(x.to(type)), true), y = ops::softmax(leaf);
    const Tensor values = here(y.value());
    const double want[] = {0, 0, 0, 0, 0.5, 0.5, 0.5, 0, 0.5};
    for (int64_t i = 0; i < 9; ++i) EXPECT_EQ(values.item(i), want[i]) << dtype_name(type) << ' ' << i;
    EXPECT_TRUE(std::isnan(values.item(10))) << dtype_name(type);
    backward(y, Tensor::full({4, 3}, 3, type, device));
    for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(leaf.grad().item(i), 0) << dtype_name(type);
  }
}

TEST_F(CudaKernels, NormsShowNotANumberInItsRowOnly) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    Random random(test_seed(), 229);
    Tensor x = random.normal({5, 300});
    x.data<double>()[2 * 300 + 299] = NAN;
    const Var w(Tensor::full({300}, 1, accumulation_dtype(type), device));
    for (const Var& y : {ops::layer_norm(Var(there(x.to(type))), w, w, 1e-5),
                         ops::rms_norm(Var(there(x.to(type))), w, 1e-5)})
      for (int64_t row = 0; row < 5; ++row)
        EXPECT_EQ(ops::all_finite(y.value().slice(row, row + 1)), row != 2) << dtype_name(type) << ' ' << row;
  }
}

// A large mean must not cost the variance its precision.
TEST_F(CudaKernels, LayerNormOfALargeMean) {
  Random random(test_seed(), 230);
  for (const int64_t n : {64, 768, 5000}) {
    Tensor x = random.normal({4, n}, DType::f32);
    for (float& v : std::span(x.data<float>(), static_cast<std::size_t>(4 * n))) v += 1000;
    const Tensor w = Tensor::full({n}, 1), b = Tensor::zeros({n});
    const Tensor y = here(ops::layer_norm(Var(there(x)), Var(there(w)), Var(there(b)), 1e-5).value());
    const auto wide = [](const Tensor& t) { return Var(t.to(DType::f64)); };
    EXPECT_LE(relative_error(y, ops::layer_norm(wide(x), wide(w), wide(b), 1e-5).value(), 0), 3e-4) << n;
  }
}

TEST_F(CudaKernels, CrossEntropyOfExtremeLogits) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    SCOPED_TRACE(dtype_name(type));
    const double big = type == DType::f64 ? 1e300 : 1e30, inf = INFINITY;
    const Tensor logits = Tensor::of<double>({3, 3}, {big, -big, 0, -big, -big, -big, -inf, 0, 0});
    const Var leaf(there(logits.to(type)), true);
    const Var loss = ops::cross_entropy(leaf, there(Tensor::of<std::int32_t>({3}, {0, 2, 1})));
    EXPECT_NEAR(loss.value().item(), (std::log(3) + std::log(2)) / 3, 1e-6);
    backward(loss);
    EXPECT_TRUE(ops::all_finite(leaf.grad()));
    EXPECT_NEAR(leaf.grad().item(3), 1.0 / 9, 1e-3);
    EXPECT_EQ(leaf.grad().item(6), 0);
  }
}

TEST_F(CudaKernels, CrossEntropyOfIgnoredAndWrongTargets) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    SCOPED_TRACE(dtype_name(type));
    Random random(test_seed(), 231);
    const Tensor x = there(random.normal({3, 8}, type)), w = there(random.normal({5, 8}, type));
    const Tensor ignored = there(Tensor::full({3}, ops::kIgnoreIndex, DType::i32));
    poison_free_memory(device);
    const Var xv(x, true), wv(w, true), fused = ops::linear_cross_entropy(xv, wv, {}, ignored);
    const Var logits(there(random.normal({3, 5}, type)), true), plain = ops::cross_entropy(logits, ignored);
    EXPECT_EQ(plain.value().item(), 0);
    EXPECT_EQ(fused.value().item(), 0);
    backward(plain);
    backward(fused);
    for (const Var* v : {&xv, &wv, &logits}) EXPECT_EQ(ops::sum_of_squares(v->grad()), 0);

    for (const std::int32_t wrong : {5, -1, 1 << 30}) {
      const Tensor targets = there(Tensor::of<std::int32_t>({3}, {0, wrong, 4}));
      EXPECT_TRUE(std::isnan(ops::cross_entropy(logits, targets).value().item())) << wrong;
      Tensor row_losses;
      EXPECT_TRUE(std::isnan(ops::linear_cross_entropy(xv, wv, {}, targets, {}, &row_losses).value().item()));
      for (int64_t row = 0; row < 3; ++row) EXPECT_EQ(std::isnan(row_losses.item(row)), row == 1) << wrong;
    }
  }
}

TEST_F(CudaKernels, WrongIdsGiveRowsOfNaN) {
  Random random(test_seed(), 232);
  for (const std::int32_t wrong : {3, -1, 1 << 30}) {
    const Var table(there(random.normal({3, 9}, DType::f32)));
    const Tensor ids = there(Tensor::of<std::int32_t>({3}, {2, wrong, 0}));
    for (const DType type : {DType::f32, DType::bf16}) {
      const Tensor y = here(ops::embedding(table, ids, type).value());
      for (int64_t i = 0; i < y.numel(); ++i) EXPECT_EQ(std::isnan(y.item(i)), i / 9 == 1) << wrong;
    }
  }
}

TEST_F(CudaKernels, EmptyTensors) {
  for (const OpCase& c : op_cases::elementwise()) {
    const std::vector<Tensor> inputs(2, Tensor::empty({3, 0}, DType::f64));
    for (const Tensor& t : run_op(c, inputs, DType::bf16, device))
      EXPECT_TRUE(!t.defined() || t.shape() == (Shape{3, 0})) << c.name;
  }
  poison_free_memory(device);
  const Var a(Tensor::empty({0, 3}, DType::f32, device), true),
      b(Tensor::full({3}, 2, DType::f32, device), true);
  backward(ops::add(a, b), Tensor::empty({0, 3}, DType::f32, device));
  EXPECT_EQ(b.grad().item(1), 0);
  EXPECT_EQ(ops::sum(a).value().item(), 0);
}

// --- more than 2^31 elements ---

TEST_F(CudaKernels, SlowElementsBeyond32Bits) {
  constexpr int64_t kN = (int64_t{1} << 31) + 4099, kNeeded = 5 * kN * 2;
  if (backend(device).free_memory() < kNeeded) GTEST_SKIP() << "too little memory is free on the GPU";
  Tensor x = Tensor::full({kN}, 1, DType::bf16, device);
  ops::scale_in_place(x, 3);
  const Tensor y = ops::clamp(Var(x), 0, 1e9).value();
  ops::add_in_place(x, y);
  EXPECT_EQ(ops::sum_of_squares(x), 36.0 * kN);
  const Tensor z = ops::add(Var(x), Var(y)).value();
  EXPECT_EQ(ops::sum_of_squares(z), 81.0 * kN);
  for (const int64_t i : {int64_t{0}, int64_t{1} << 31, kN - 1}) EXPECT_EQ(z.item(i), 9);
  EXPECT_TRUE(ops::all_finite(z));
  x.slice(kN - 1, kN).copy_from(Tensor::full({1}, NAN, DType::bf16, device));
  EXPECT_FALSE(ops::all_finite(x));
}

}  // namespace
}  // namespace filigree
