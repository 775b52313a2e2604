// What holds for every op: right gradients, f32 close to f64, the same bits for any number of threads, and on
// the meta device the shapes and memory of the CPU.
#include <gtest/gtest.h>

#include "core/parallel.h"
#include "tests/op_makers.h"

namespace filigree {
namespace {

using std::int64_t;

// The result, then the gradient of each input under a random cotangent.
struct Results {
  std::vector<Tensor> tensors;

  Results(const OpInstance& op, DType dtype) {
    std::vector<Var> inputs;
    for (const auto& t : op.inputs) inputs.emplace_back(t.to(dtype), true);
    const Var y = op.f(inputs, op.integers);
    Random random(7);
    backward(y, random.normal(y.shape()).to(dtype));
    tensors.push_back(y.value());
    for (const auto& v : inputs) tensors.push_back(v.grad());
  }
};

class Op : public testing::TestWithParam<OpMaker> {
 protected:
  Random random{test_seed(), 100};
};

TEST_P(Op, GradientsAgreeWithDifferences) {
  for (int round = 0; round < 24; ++round) {
    const OpInstance op = GetParam().make(random, 6);
    ASSERT_TRUE(gradients_agree([&](const auto& v) { return op.f(v, op.integers); }, op.inputs))
        << "round " << round << ", first input " << op.inputs[0].shape().str();
  }
}

// How far each result moves when every input moves by an f32 rounding: sums that cancel cannot be closer in
// f32.
std::vector<double> rounding_effects(const OpInstance& op, const Results& exact, Random& random) {
  OpInstance moved = op;
  for (auto& t : moved.inputs) {
    t = t.clone();
    for (std::int64_t e = 0; e < t.numel(); ++e) t.data<double>()[e] *= random.coin() ? 1 - 6e-8 : 1 + 6e-8;
  }
  const Results shifted(moved, DType::f64);
  std::vector<double> effects(exact.tensors.size(), 0.0);
  for (std::size_t i = 0; i < effects.size(); ++i) {
    if (!exact.tensors[i].defined()) continue;
    const auto a = exact.tensors[i].values<double>(), b = shifted.tensors[i].values<double>();
    for (std::size_t e = 0; e < a.size(); ++e) effects[i] = std::max(effects[i], std::abs(a[e] - b[e]));
  }
  return effects;
}

TEST_P(Op, SingleIsCloseToDouble) {
  for (int round = 0; round < 10; ++round) {
    OpInstance op = GetParam().make(random, 40);
    for (auto& t : op.inputs) t = t.to(DType::f32).to(DType::f64);  // the same values in both
    const Results single(op, DType::f32), wide(op, DType::f64);
    const auto effects = rounding_effects(op, wide, random);
    for (std::size_t i = 0; i < wide.tensors.size(); ++i) {
      ASSERT_EQ(single.tensors[i].defined(), wide.tensors[i].defined());
      if (!wide.tensors[i].defined()) continue;
      ASSERT_EQ(single.tensors[i].dtype(), DType::f32);
      const auto a = single.tensors[i].values<float>();
      const auto b = wide.tensors[i].values<double>();
      double scale = 1;
      for (const double x : b) scale = std::max(scale, std::abs(x));
      const double allowed = 2e-5 * scale + 20 * effects[i];
      for (std::size_t e = 0; e < b.size(); ++e)
        ASSERT_NEAR(a[e], b[e], allowed) << "tensor " << i << ", element " << e;
    }
  }
}

TEST_P(Op, SameBitsForAnyNumberOfThreads) {
  const int before = n_threads();
  for (int round = 0; round < 4; ++round) {
    const OpInstance op = GetParam().make(random, 70);
    std::vector<Results> runs;
    for (const int threads : {1, 2, 3}) {
      set_n_threads(threads);
      runs.emplace_back(op, DType::f32);
    }
    set_n_threads(before);
    for (const Results& run : runs)
      for (std::size_t i = 0; i < run.tensors.size(); ++i) {
        if (!run.tensors[i].defined()) continue;
        const auto a = run.tensors[i].values<float>(), b = runs[0].tensors[i].values<float>();
        ASSERT_TRUE(std::ranges::equal(a, b)) << "tensor " << i;
      }
  }
}

// What a forward and backward leave in the allocator's books.
struct Footprint {
  std::vector<Shape> shapes;
  int64_t in_use, peak, peak_reserved;
  bool operator==(const Footprint&) const = default;
};

Footprint footprint(const OpInstance& op, const std::vector<Shape>& input_shapes,
                    const std::vector<std::vector<std::int32_t>>& integers,
                    const std::vector<Shape>& integer_shapes, Device device) {
  allocator(device).release_cached();
  allocator(device).reset_peak();
  Footprint result{};
  std::vector<Var> inputs;
  for (const auto& shape : input_shapes) inputs.emplace_back(Tensor::zeros(shape, DType::f32, device), true);
  std::vector<Tensor> indices;
  for (std::size_t i = 0; i < integers.size(); ++i) {
    indices.push_back(Tensor::empty(integer_shapes[i], DType::i32, device));
    if (device.is_cpu()) std::ranges::copy(integers[i], indices.back().data<std::int32_t>());
  }
  Var y = op.f(inputs, indices);
  result.shapes.push_back(y.shape());
  backward(y, Tensor::zeros(y.shape(), DType::f32, device));
  y = {};
  for (const auto& v : inputs) result.shapes.push_back(v.grad().defined() ? v.grad().shape() : Shape{});
  const MemoryStatistics memory = allocator(device).statistics();
  result.in_use = memory.in_use;
  result.peak = memory.peak_in_use;
  result.peak_reserved = memory.peak_reserved;
  return result;
}

TEST_P(Op, MetaPredictsShapesAndMemory) {
  ASSERT_EQ(allocator(Device::cpu()).statistics().in_use, 0) << "another test leaks a tensor";
  for (int round = 0; round < 6; ++round) {
    OpInstance op = GetParam().make(random, 40);
    std::vector<Shape> shapes, integer_shapes;
    std::vector<std::vector<std::int32_t>> integers;
    for (const auto& t : op.inputs) shapes.push_back(t.shape());
    for (const auto& t : op.integers) {
      integer_shapes.push_back(t.shape());
      integers.emplace_back(t.values<std::int32_t>().begin(), t.values<std::int32_t>().end());
    }
    op.inputs.clear();  // so that both allocators start empty
    op.integers.clear();
    const Footprint cpu = footprint(op, shapes, integers, integer_shapes, Device::cpu());
    const Footprint meta = footprint(op, shapes, integers, integer_shapes, Device::meta());
    EXPECT_EQ(cpu.shapes, meta.shapes);
    EXPECT_EQ(cpu.in_use, meta.in_use);
    EXPECT_EQ(cpu.peak, meta.peak);
    EXPECT_EQ(cpu.peak_reserved, meta.peak_reserved);
    EXPECT_GE(cpu.peak, cpu.in_use);
  }
}

TEST_P(Op, IsNotRecordedUnderNoGrad) {
  const OpInstance op = GetParam().make(random, 6);
  std::vector<Var> inputs;
  for (const auto& t : op.inputs) inputs.emplace_back(t, true);
  const Var recorded = op.f(inputs, op.integers);
  const NoGrad guard;
  const Var plain = op.f(inputs, op.integers);
  EXPECT_TRUE(recorded.requires_grad());
  const auto a = recorded.value().values<double>(), b = plain.value().values<double>();
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-13 * (1 + std::abs(a[i])));
}

INSTANTIATE_TEST_SUITE_P(Core, Op, testing::ValuesIn(op_makers::kAll),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace filigree
