// Optimizer kernels against the formulas of core/optimizers/*.h, element by element in f64.
#include <gtest/gtest.h>

#include "core/kernels.h"
#include "core/optimizers/step.h"
#include "tests/op_case.h"

namespace filigree {
namespace {

constexpr cpu::Context kCpu;

std::vector<double> doubles(const Tensor& t) {
  const Tensor d = t.to(DType::f64);
  return {d.values<double>().begin(), d.values<double>().end()};
}

void expect_near(const Tensor& t, const std::vector<double>& want, double error, const char* what) {
  for (std::int64_t i = 0; i < t.numel(); ++i)
    ASSERT_NEAR(t.item(i), want[i], error * (1 + std::abs(want[i]))) << what << ' ' << i;
}

// The numbers that a step reads from tensors: the rates of step number `step`, and gradients of this norm.
StepControl control(double lr, double beta1, double beta2, int step, double norm = 0, double clip = 0) {
  const std::vector<double> rates = {lr, 1 - std::pow(beta1, step), 1 - std::pow(beta2, step)};
  return {Tensor::of<double>({3}, rates), Tensor::full({1}, norm * norm, DType::f64),
          Tensor::zeros({1}, DType::u32), clip};
}

void adamw(const AdamW& h, const StepControl& control, double weight_decay, const Tensor& grad, Tensor& w,
           Tensor& m, Tensor& v) {
  const OptimizerTensors tensors{grad, w, {m, v}, 1, weight_decay};
  optimizer_step(kCpu, h, control, std::span(&tensors, 1));
}

// Without momentum where u is undefined.
void sgd(double momentum, const StepControl& control, double weight_decay, const Tensor& grad, Tensor& w,
         Tensor& u) {
  const OptimizerTensors tensors{grad, w, {u, {}}, 1, weight_decay};
  const OptimizerRule rule = u.defined() ? OptimizerRule(MomentumSgd{momentum}) : OptimizerRule(Sgd{});
  optimizer_step(kCpu, rule, control, std::span(&tensors, 1));
}

void check_adamw(DType dtype, double error) {
  Random random(test_seed(), 1);
  for (const std::int64_t n : {1, 7, 64, 1001, 40003}) {
    const double lr = random.stream().uniform() * 0.1, weight_decay = 0.1;
    const AdamW h{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-6};
    Tensor w = random.normal({n}, dtype), m = Tensor::zeros({n}, dtype), v = Tensor::zeros({n}, dtype);
    std::vector<double> w64 = doubles(w), m64(n), v64(n);
    for (int step = 1; step <= 6; ++step) {
      const Tensor grad = random.normal({n}, dtype, 10);
      for (std::int64_t i = 0; i < n; ++i) {
        const double g = 0.25 * grad.item(i);
        m64[i] = h.beta1 * m64[i] + (1 - h.beta1) * g;
        v64[i] = h.beta2 * v64[i] + (1 - h.beta2) * g * g;
        const double m_hat = m64[i] / (1 - std::pow(h.beta1, step));
        const double v_hat = v64[i] / (1 - std::pow(h.beta2, step));
        w64[i] -= lr * (m_hat / (std::sqrt(v_hat) + h.eps) + weight_decay * w64[i]);
      }
      adamw(h, control(lr, h.beta1, h.beta2, step, 8, 2), weight_decay, grad, w, m, v);  // clips to a quarter
    }
    expect_near(w, w64, error, "w");
    expect_near(m, m64, error, "m");
    expect_near(v, v64, error, "v");
  }
}

TEST(AdamW, FollowsThePaper) {
  check_adamw(DType::f64, 1e-13);
  check_adamw(DType::f32, 2e-6);
}

// Without decay the first step is lr times the sign of the gradient, whatever its size.
TEST(AdamW, FirstStepIsTheSign) {
  Tensor w = Tensor::zeros({2}, DType::f64), m = Tensor::zeros_like(w), v = Tensor::zeros_like(w);
  const Tensor grad = Tensor::of<double>({2}, std::vector<double>{1e-3, -1e5});
  adamw({.eps = 0}, control(0.01, 0.9, 0.95, 1), 0, grad, w, m, v);
  EXPECT_NEAR(w.item(0), -0.01, 1e-15);
  EXPECT_NEAR(w.item(1), 0.01, 1e-15);
}

void check_sgd(DType dtype, double momentum, double error) {
  Random random(test_seed(), 2);
  for (const std::int64_t n : {1, 7, 64, 1001, 40003}) {
    const double lr = 0.05, weight_decay = 0.01;
    const StepControl halving = control(lr, 0, 0, 1, 4, 2);  // clips to a half
    Tensor w = random.normal({n}, dtype), u = momentum > 0 ? Tensor::zeros({n}, dtype) : Tensor{};
    std::vector<double> w64 = doubles(w), u64(n);
    for (int step = 0; step < 6; ++step) {
      const Tensor grad = random.normal({n}, dtype);
      for (std::int64_t i = 0; i < n; ++i) {
        u64[i] = momentum * u64[i] + 0.5 * grad.item(i) + weight_decay * w64[i];
        w64[i] -= lr * u64[i];
      }
      sgd(momentum, halving, weight_decay, grad, w, u);
    }
    expect_near(w, w64, error, "w");
    if (u.defined()) expect_near(u, u64, error, "u");
  }
}

TEST(Sgd, FollowsTheFormula) {
  for (const double momentum : {0.0, 0.9}) {
    check_sgd(DType::f64, momentum, 1e-13);
    check_sgd(DType::f32, momentum, 3e-6);
  }
}

TEST(Optimizers, HaltedStepsWriteNothing) {
  const auto before = Tensor::full({5}, 1, DType::f64);
  for (const double bad : {std::nan(""), static_cast<double>(INFINITY)}) {
    Tensor halted = Tensor::zeros({1}, DType::u32);
    halt_if_not_finite(kCpu, Tensor::full({1}, 3), Tensor::full({1}, 4, DType::f64), halted);
    EXPECT_EQ(halted.item(), 0);
    halt_if_not_finite(kCpu, Tensor::full({1}, bad), Tensor::full({1}, 4, DType::f64), halted);
    EXPECT_EQ(halted.item(), 1);
    halt_if_not_finite(kCpu, Tensor::full({1}, 3), Tensor::full({1}, 4, DType::f64), halted);
    EXPECT_EQ(halted.item(), 1) << "it must stay";
    StepControl stopped = control(0.1, 0.9, 0.95, 1);
    stopped.halted = halted;
    Tensor w = before.clone(), m = before.clone(), v = before.clone();
    adamw({}, stopped, 0.1, before, w, m, v);
    sgd(0.9, stopped, 0.1, before, w, m);
    for (const Tensor& t : {w, m, v}) EXPECT_TRUE(bitwise_equal(t, before));
  }
}

TEST(Optimizers, SameBitsForAnyNumberOfThreads) {
  Random random(test_seed(), 3);
  const Tensor w0 = random.normal({50021}, DType::f32), grad = random.normal({50021}, DType::f32);
  const auto run = [&](int threads) {
    set_n_threads(threads);
    Tensor w = w0.clone(), m = Tensor::zeros_like(w), v = Tensor::zeros_like(w), u = Tensor::zeros_like(w);
    for (int step = 1; step <= 3; ++step) {
      adamw({}, control(1e-2, 0.9, 0.95, step), 0.1, grad, w, m, v);
      sgd(0.9, control(1e-2, 0, 0, step), 0, grad, w, u);
    }
    set_n_threads(0);
    return std::vector{w, m, v, u};
  };
  const auto one = run(1);
  for (const int threads : {2, 3}) {
    const auto many = run(threads);
    for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(bitwise_equal(one[i], many[i])) << i;
  }
}

}  // namespace
}  // namespace filigree
