// Arithmetic and activations: values against the formulas, then the checks of op_case.h.
#include <gtest/gtest.h>

#include <numbers>

#include "tests/op_cases.h"

namespace filigree {
namespace {

class Elementwise : public testing::TestWithParam<OpCase> {};
INSTANTIATE_TEST_SUITE_P(Ops, Elementwise, testing::ValuesIn(op_cases::elementwise()), op_case_name);

TEST_P(Elementwise, GradientsAgreeWithDifferences) {
  check_gradients(GetParam());
}
TEST_P(Elementwise, SingleAgreesWithDouble) {
  check_f32(GetParam());
}
TEST_P(Elementwise, SameBitsForAnyNumberOfThreads) {
  check_threads(GetParam());
}
TEST_P(Elementwise, MetaTakesTheSameMemory) {
  check_meta(GetParam());
}

TEST(ElementwiseValues, FollowTheFormulas) {
  using std::numbers::pi;
  struct Case {
    const char* name;
    Var (*op)(const Var&);
    double (*exact)(double);
  };
  const Case all[] = {
      {"exp", ops::exp, [](double x) { return std::exp(x); }},
      {"sigmoid", ops::sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }},
      {"silu", ops::silu, [](double x) { return x / (1 + std::exp(-x)); }},
      {"gelu_erf", [](const Var& x) { return ops::gelu(x, ops::Gelu::erf); },
       [](double x) { return x * std::erfc(-x / std::sqrt(2.0)) / 2; }},
      {"gelu_tanh", [](const Var& x) { return ops::gelu(x, ops::Gelu::tanh); },
       [](double x) { return x / 2 * (1 + std::tanh(std::sqrt(2 / pi) * (x + 0.044715 * x * x * x))); }},
      {"scale", [](const Var& x) { return ops::scale(x, 0.3); }, [](double x) { return 0.3 * x; }},
  };
  Random random(test_seed(), 2);
  const Tensor x = random.normal({1037}, DType::f64, 3);
  for (const auto& c : all) {
    const Tensor y = c.op(Var(x)).value(), y32 = c.op(Var(x.to(DType::f32))).value();
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      const double exact = c.exact(x.item(i));
      EXPECT_NEAR(y.item(i), exact, 1e-14 * (1 + std::abs(exact))) << c.name << " of " << x.item(i);
      EXPECT_NEAR(y32.item(i), exact, 2e-6 * (1 + std::abs(exact))) << c.name << " of " << x.item(i);
    }
  }
}

TEST(ElementwiseValues, BroadcastFollowsTheIndex) {
  Random random(test_seed(), 3);
  for (const Shape& shape :
       {Shape{1}, Shape{7}, Shape{300, 1}, Shape{211, 3}, Shape{5, 700}, Shape{9, 5, 140}})
    for (int kept = 1; kept <= shape.rank(); ++kept) {
      const Shape suffix(shape.dims().last(static_cast<std::size_t>(kept)));
      const Tensor a = random.normal(shape), b = random.normal(suffix);
      const Tensor sum = ops::add(Var(a), Var(b)).value(), product = ops::mul(Var(a), Var(b)).value();
      for (std::int64_t i = 0; i < a.numel(); ++i) {
        ASSERT_EQ(sum.item(i), a.item(i) + b.item(i % b.numel())) << shape.str() << suffix.str();
        ASSERT_EQ(product.item(i), a.item(i) * b.item(i % b.numel())) << shape.str() << suffix.str();
      }
    }
}

TEST(ElementwiseValues, BinaryFormulas) {
  Random random(test_seed(), 4);
  const Tensor a = random.normal({333}), b = op_cases::off_zero(random, {333});
  const Tensor difference = ops::sub(Var(a), Var(b)).value(), quotient = ops::div(Var(a), Var(b)).value();
  const Tensor gated = ops::swiglu(Var(a), Var(b)).value();
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    EXPECT_EQ(difference.item(i), a.item(i) - b.item(i));
    EXPECT_EQ(quotient.item(i), a.item(i) / b.item(i));
    EXPECT_NEAR(gated.item(i), a.item(i) / (1 + std::exp(-a.item(i))) * b.item(i), 1e-14);
  }
}

TEST(ElementwiseValues, EmptyTensors) {
  for (const auto& c : op_cases::elementwise()) {
    const std::vector<Tensor> inputs(2, Tensor::empty({3, 0}, DType::f64));
    for (const auto& t : run_op(c, inputs, DType::f32))
      EXPECT_TRUE(!t.defined() || t.shape() == (Shape{3, 0})) << c.name;
  }
  // An empty sum is zero.
  Var a(Tensor::empty({0, 3}), true), b(Tensor::full({3}, 2), true);
  backward(ops::add(a, b), Tensor::empty({0, 3}));
  EXPECT_EQ(b.grad().item(1), 0);
}

TEST(ElementwiseValues, HugeArgumentsStayFinite) {
  const Tensor x = Tensor::of<float>({6}, std::vector<float>{-1e4f, -100, -20, 20, 100, 1e4f});
  using Op = Var (*)(const Var&);
  for (const Op op :
       {Op(ops::sigmoid), Op(ops::silu), Op([](const Var& v) { return ops::gelu(v, ops::Gelu::erf); }),
        Op([](const Var& v) { return ops::gelu(v, ops::Gelu::tanh); })}) {
    Var leaf(x.clone(), true);
    const Var y = op(leaf);
    EXPECT_TRUE(ops::all_finite(y.value()));
    backward(y, Tensor::full(x.shape(), 1));
    EXPECT_TRUE(ops::all_finite(leaf.grad()));
  }
}

TEST(ElementwiseErrors, SayWhatIsWrong) {
  const auto message = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::usage);
      return e.what();
    }
    return "no error";
  };
  const Var a(Tensor::zeros({2, 3})), b(Tensor::zeros({2})), d(Tensor::zeros({2, 3}, DType::f64));
  EXPECT_EQ(message([&] { ops::add(a, b); }), "[add] shape [2] is not that of the last dimensions of [2, 3]");
  EXPECT_EQ(message([&] { ops::mul(b, a); }), "[mul] shape [2, 3] is not that of the last dimensions of [2]");
  EXPECT_EQ(message([&] { ops::sub(a, b); }), "[sub] shapes [2, 3] and [2] differ");
  EXPECT_EQ(message([&] { ops::div(a, d); }), "[div] f32 on cpu with f64 on cpu");
  EXPECT_EQ(message([&] { ops::limit_gradient(a, -1); }), "[limit_gradient] the limit -1 is negative");
  EXPECT_EQ(message([&] { ops::clamp(a, 1, 0); }), "[clamp] the limits 1 and 0 are in the wrong order");
  EXPECT_EQ(message([&] { ops::exp(Var(Tensor::zeros({2}, DType::i32))); }),
            "[exp] computes in f32 or f64, not i32");
}

TEST(ElementwiseValues, ClampCutsAndLetsGradientsThrough) {
  const Tensor x = Tensor::of<double>({4}, {-2, 0.25, 3, NAN});
  for (const ops::Cut cut : {ops::Cut::stop, ops::Cut::through}) {
    Var v(x, true);
    const Var y = ops::clamp(v, -1, 1, cut);
    EXPECT_EQ(y.value().item(0), -1);
    EXPECT_EQ(y.value().item(1), 0.25);
    EXPECT_EQ(y.value().item(2), 1);
    EXPECT_TRUE(std::isnan(y.value().item(3)));
    backward(y, Tensor::of<double>({4}, {5, 6, 7, 8}));
    const bool through = cut == ops::Cut::through;
    EXPECT_EQ(v.grad().item(0), through ? 5 : 0);
    EXPECT_EQ(v.grad().item(1), 6);
    EXPECT_EQ(v.grad().item(2), through ? 7 : 0);
  }
}

TEST(ElementwiseTape, KeepsOnlyWhatBackwardNeeds) {
  const auto kept = [](auto&& op) {
    Var x(Tensor::full({1000}, 0.5), true);
    const std::int64_t before = allocator(Device::cpu()).statistics().in_use;
    const Var y = op(ops::scale(x, 2));  // the input of op is alive only if op keeps it
    return (allocator(Device::cpu()).statistics().in_use - before + 2000) / 4000;  // tensors, y among them
  };
  EXPECT_EQ(kept([](const Var& v) { return ops::sigmoid(v); }), 1);
  EXPECT_EQ(kept([](const Var& v) { return ops::exp(v); }), 1);
  EXPECT_EQ(kept([](const Var& v) { return ops::add(v, v); }), 1);
  EXPECT_EQ(kept([](const Var& v) { return ops::mul(v, Var(Tensor::full({1000}, 2))); }),
            2);  // the 2s, not v
  EXPECT_EQ(kept([](const Var& v) { return ops::gelu(v); }), 2);
  EXPECT_EQ(kept([](const Var& v) { return ops::dropout(v, 0.5, RandomKey{1, 2, 3}); }), 1);
}

}  // namespace
}  // namespace filigree
