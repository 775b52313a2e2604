// Optimizer kernels against the formulas of core/optimizer_step.h, element by element in f64.
#include <gtest/gtest.h>

#include "core/kernels.h"
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

void check_adamw(DType dtype, double error) {
  Random random(test_seed(), 1);
  for (const std::int64_t n : {1, 7, 64, 1001, 40003}) {
    AdamWStep h{.lr = random.stream().uniform() * 0.1,
                .beta1 = 0.9,
                .beta2 = 0.95,
                .eps = 1e-6,
                .weight_decay = 0.1,
                .step = 1,
                .grad_scale = 0.25};
    Tensor w = random.normal({n}, dtype), m = Tensor::zeros({n}, dtype), v = Tensor::zeros({n}, dtype);
    std::vector<double> w64 = doubles(w), m64(n), v64(n);
    for (h.step = 1; h.step <= 6; ++h.step) {
      const Tensor grad = random.normal({n}, dtype, 10);
      for (std::int64_t i = 0; i < n; ++i) {
        const double g = h.grad_scale * grad.item(i);
        m64[i] = h.beta1 * m64[i] + (1 - h.beta1) * g;
        v64[i] = h.beta2 * v64[i] + (1 - h.beta2) * g * g;
        const double m_hat = m64[i] / (1 - std::pow(h.beta1, h.step));
        const double v_hat = v64[i] / (1 - std::pow(h.beta2, h.step));
        w64[i] -= h.lr * (m_hat / (std::sqrt(v_hat) + h.eps) + h.weight_decay * w64[i]);
      }
      adamw_step(kCpu, h, grad, w, m, v);
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
  adamw_step(kCpu, {.lr = 0.01, .eps = 0}, grad, w, m, v);
  EXPECT_NEAR(w.item(0), -0.01, 1e-15);
  EXPECT_NEAR(w.item(1), 0.01, 1e-15);
}

void check_sgd(DType dtype, double momentum, double error) {
  Random random(test_seed(), 2);
  for (const std::int64_t n : {1, 7, 64, 1001, 40003}) {
    const SgdStep h{.lr = 0.05, .momentum = momentum, .weight_decay = 0.01, .grad_scale = 2};
    Tensor w = random.normal({n}, dtype), u = momentum > 0 ? Tensor::zeros({n}, dtype) : Tensor{};
    std::vector<double> w64 = doubles(w), u64(n);
    for (int step = 0; step < 6; ++step) {
      const Tensor grad = random.normal({n}, dtype);
      for (std::int64_t i = 0; i < n; ++i) {
        u64[i] = h.momentum * u64[i] + h.grad_scale * grad.item(i) + h.weight_decay * w64[i];
        w64[i] -= h.lr * u64[i];
      }
      sgd_step(kCpu, h, grad, w, u);
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

TEST(Optimizers, SameBitsForAnyNumberOfThreads) {
  Random random(test_seed(), 3);
  const Tensor w0 = random.normal({50021}, DType::f32), grad = random.normal({50021}, DType::f32);
  const auto run = [&](int threads) {
    set_n_threads(threads);
    Tensor w = w0.clone(), m = Tensor::zeros_like(w), v = Tensor::zeros_like(w), u = Tensor::zeros_like(w);
    for (int step = 1; step <= 3; ++step) {
      adamw_step(kCpu, {.lr = 1e-2, .weight_decay = 0.1, .step = step}, grad, w, m, v);
      sgd_step(kCpu, {.lr = 1e-2, .momentum = 0.9}, grad, w, u);
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
