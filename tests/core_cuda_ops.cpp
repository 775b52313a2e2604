// Every op on a GPU against the CPU in fp64: results and gradients in f64, f32 and bf16. Inputs and
// cotangents are rounded to the dtype for both, so that only the op's own rounding counts. Each call runs
// twice, in memory full of NaN, and must give the same bits; and once more on tensors that are not aligned.
#include "tests/cuda_device.h"
#include "tests/op_cases.h"
#include "tests/op_makers.h"

namespace filigree {
namespace {

using std::int64_t;

// Inputs from `first_parameter` on are parameters, which are f32 beside bf16; where `or_half`, bf16 too.
struct Parameters {
  std::size_t first = 100;
  bool or_half = true;
};

// What elements count as at least when errors are taken relative to them. `of_sums`: that times the root of
// the number of terms, as for sums of terms of size 1 (expect_f32_agrees in op_case.h).
struct Floor {
  double result = 0.1, gradient = 0.1;
  bool of_sums = true;
};

struct DeviceOp {
  std::string name;
  std::function<OpInstance(Random&, int round)> make;
  Parameters parameters = {};
  double f32_error = 1e-5;   // of the greatest element
  double bf16_error = 2e-2;  // of the norm
  Floor floor = {};
};
constexpr double kDoubleError = 1e-10;
constexpr int kRounds = 24;

void PrintTo(const DeviceOp& op, std::ostream* out) {
  *out << op.name;
}

// --- the ops ---

// Round by round; the first ones are awkward or large.
Shape shape_of_round(Random& random, int round, bool rows) {
  static const Shape elementwise[] = {{1}, {7}, {0, 4}, {3, 131, 173}, {40001}, {20011, 3}, {2, 40009}};
  static const Shape of_rows[] = {{1, 1},     {3, 131, 173}, {0, 4},       {20011, 3},
                                  {2, 40009}, {64, 768},     {7, 3, 4099}, {2000, 64}};
  const auto i = static_cast<std::size_t>(round);
  if (!rows) return i < std::size(elementwise) ? elementwise[i] : random.shape(3, 40);
  return i < std::size(of_rows) ? of_rows[i] : random.shape(2, 30).append(random.size(5, 300));
}

DeviceOp from_case(const OpCase& c, bool rows, Parameters parameters = {}) {
  return {c.name,
          [c, rows](Random& random, int round) {
            return OpInstance{
                [f = c.f](const std::vector<Var>& v, const std::vector<Tensor>&) { return f(v); },
                c.inputs(random, shape_of_round(random, round, rows))};
          },
          parameters, std::max(c.f32_error, 5e-6)};
}

DeviceOp from_maker(const OpMaker& maker) {
  return {maker.name, [maker](Random& random, int round) {
            return maker.make(random, round < 14 ? 40 : round < 21 ? 70 : 110);
          }};
}

// As op_makers::add_norm, but without an op that mixes x and a parameter.
OpInstance add_norm(Random& r, int64_t n) {
  const Shape shape = r.shape(2, n).append(r.size(8, 4 * n + 8));
  const int64_t used = r.range(0, 3);
  const bool centred = r.coin(), bias = centred && r.coin();
  std::vector<Tensor> inputs{r.normal(shape), r.normal(shape), r.normal({shape[-1]})};
  if (bias) inputs.push_back(r.normal({shape[-1]}));
  return {[=](const std::vector<Var>& v, const std::vector<Tensor>&) {
            const ops::Normed y = centred ? ops::add_layer_norm(v[0], v[1], v[2], bias ? v[3] : Var{}, 1e-5)
                                          : ops::add_rms_norm(v[0], v[1], v[2], 1e-5);
            if (used < 2) return used == 0 ? y.normed : y.sum;
            return used == 2 ? ops::add(y.sum, y.normed) : ops::mul(y.sum, y.normed);
          },
          inputs};
}

// Heads as in models.
OpCase wide_rope() {
  return {"rope_wide",
          [](Random& random, const Shape& s) {
            return std::vector<Tensor>{random.normal({std::min<int64_t>(s[0], 2), random.size(1, 700),
                                                      random.size(1, 5), 16 * random.size(1, 8)})};
          },
          [](const auto& v) { return ops::rope(v[0], 10000, 5); }};
}

// Where an op's tolerances are not the usual ones: bf16 intermediates add their own rounding.
void adapt(DeviceOp& op) {
  const auto is = [&](std::initializer_list<const char*> names) {
    return std::ranges::find(names, op.name) != names.end();
  };
  if (is({"linear", "gelu_mlp", "swiglu_mlp", "linear_cross_entropy"})) op.parameters = {1, true};
  if (is({"embedding"})) op.parameters = {0, true};
  if (is({"gelu_mlp", "swiglu_mlp"})) op.f32_error = 3e-5;
  if (is({"gelu_mlp", "swiglu_mlp", "sigmoid"})) op.bf16_error = 4e-2;
  if (is({"cross_entropy"})) op.floor = {1e-3, 1e-3, false};
  if (is({"linear_cross_entropy"})) {
    op.f32_error = 2e-5;
    op.bf16_error = 5e-2;  // of logits up to 8 in bf16
    op.floor = {1, 1e-3, false};
    op.make = [](Random& random, int) { return op_makers::linear_cross_entropy(random, 24); };
  }
}

std::vector<DeviceOp> all_ops() {
  std::vector<DeviceOp> all;
  for (const OpCase& c : op_cases::elementwise()) all.push_back(from_case(c, false));
  for (const OpCase& c : op_cases::norms()) all.push_back(from_case(c, true, {1, false}));
  all.push_back(from_case(op_cases::rope(), false));
  all.push_back(from_case(wide_rope(), false));
  all.push_back(from_case(op_cases::dropout(), false));
  for (const OpMaker& maker : op_makers::kAll)
    if (std::string(maker.name) != "add_norm") all.push_back(from_maker(maker));
  all.push_back(from_maker({"add_norm", add_norm}));
  all.back().parameters = {2, false};
  for (DeviceOp& op : all) adapt(op);
  return all;
}

// --- running them ---

Tensor rounded(const Tensor& t, DType type) {
  return t.to(type).to(DType::f64);
}

// A copy that begins one element behind an aligned address.
Tensor shifted(const Tensor& t) {
  Tensor room = Tensor::empty({t.numel() + 1}, t.dtype(), t.device());
  Tensor view = room.slice(1, t.numel() + 1).reshape(t.shape());
  view.copy_from(t);
  return view;
}

struct Call {
  OpInstance op;             // inputs in f64
  std::vector<DType> types;  // of the inputs
  DType rounding;            // of the cotangent
  bool aligned = true;
};

// The result, then the gradient of each input, on the CPU. An undefined gradient is none.
std::vector<Tensor> run(const Call& call, Device device) {
  std::vector<Var> leaves;
  for (std::size_t i = 0; i < call.op.inputs.size(); ++i) {
    const Tensor t = call.op.inputs[i].to(call.types[i]).to(device);
    leaves.emplace_back(call.aligned ? t : shifted(t), true);
  }
  std::vector<Tensor> integers;
  for (const Tensor& t : call.op.integers) integers.push_back(t.to(device));
  const Var y = call.op.f(leaves, integers);
  Random random(7);
  const Tensor cotangent = rounded(random.normal(y.shape()), call.rounding).to(y.dtype()).to(device);
  backward(y, call.aligned ? cotangent : shifted(cotangent));
  std::vector<Tensor> results{y.value()};
  for (const Var& leaf : leaves) results.push_back(leaf.grad());
  for (Tensor& t : results)
    if (t.defined()) t = t.to(Device::cpu());
  return results;
}

double norm_error(const Tensor& x, const Tensor& exact, double least_norm) {
  const Tensor a = x.to(DType::f64), b = exact.to(DType::f64);
  double difference = 0, size = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    difference += std::pow(a.data<double>()[i] - b.data<double>()[i], 2);
    size += std::pow(b.data<double>()[i], 2);
  }
  if (difference == 0) return 0;
  return std::isfinite(difference) ? std::sqrt(difference) / std::max(std::sqrt(size), least_norm) : INFINITY;
}

class CudaOp : public CudaTestWith<DeviceOp> {
 protected:
  void compare(DType type) const {
    Random random(test_seed(), 200 + static_cast<std::uint32_t>(type));
    for (int round = 0; round < kRounds && !HasFailure(); ++round) {
      Call call{GetParam().make(random, round), {}, type};
      const Parameters& parameters = GetParam().parameters;
      const bool half = parameters.or_half && random.coin();
      for (std::size_t i = 0; i < call.op.inputs.size(); ++i) {
        call.op.inputs[i] = rounded(call.op.inputs[i], type);
        call.types.push_back(i < parameters.first || half ? type : accumulation_dtype(type));
      }
      SCOPED_TRACE(fmt::format("{}, round {}, first input {}", dtype_name(type), round,
                               call.op.inputs[0].shape().str()));
      Call on_cpu = call;
      on_cpu.types.assign(call.types.size(), DType::f64);
      const auto exact = run(on_cpu, Device::cpu());
      const auto results = run_twice(call);
      expect_close(results, exact, type);
      call.aligned = false;
      expect_close(run(call, device), exact, type);
    }
  }

 private:
  std::vector<Tensor> run_twice(const Call& call) const {
    poison_free_memory(device);
    const auto first = run(call, device);
    poison_free_memory(device);
    const auto second = run(call, device);
    for (std::size_t i = 0; i < first.size(); ++i)
      EXPECT_TRUE(bitwise_equal(first[i], second[i])) << "two runs differ in tensor " << i;
    return first;
  }

  static void expect_close(const std::vector<Tensor>& results, const std::vector<Tensor>& exact, DType type) {
    const DeviceOp& op = GetParam();
    int64_t largest = 0;
    for (const Tensor& t : exact)
      if (t.defined()) largest = std::max(largest, t.numel());
    for (std::size_t i = 0; i < exact.size(); ++i) {
      ASSERT_EQ(results[i].defined(), exact[i].defined()) << "tensor " << i;
      if (!exact[i].defined()) continue;
      ASSERT_EQ(results[i].shape(), exact[i].shape()) << "tensor " << i;
      if (exact[i].numel() == 0) continue;
      const double elements = static_cast<double>(std::max<int64_t>(1, exact[i].numel()));
      const double terms = op.floor.of_sums ? static_cast<double>(largest) / elements : 1;
      const double least = (i == 0 ? op.floor.result : op.floor.gradient) * std::sqrt(terms);
      const char* what = i == 0 ? "result" : "gradient ";
      if (type == DType::f64)
        EXPECT_LE(relative_error(results[i], exact[i], std::min(least, 1e-3)), kDoubleError) << what << i;
      else if (type == DType::f32)
        EXPECT_LE(relative_error(results[i], exact[i], least), op.f32_error) << what << i;
      else  // rounded results of rounded intermediates: a larger floor, for the few that nearly cancel
        EXPECT_LE(norm_error(results[i], exact[i], 3 * least * std::sqrt(elements)), op.bf16_error)
            << what << i;
    }
  }
};

TEST_P(CudaOp, AgreesInDouble) {
  compare(DType::f64);
}
TEST_P(CudaOp, AgreesInSingle) {
  compare(DType::f32);
}
TEST_P(CudaOp, AgreesInHalf) {
  compare(DType::bf16);
}

INSTANTIATE_TEST_SUITE_P(Core, CudaOp, testing::ValuesIn(all_ops()),
                         [](const auto& test) { return test.param.name; });

// --- sizes of models ---

// One op at one size, in every dtype.
struct LargeOp {
  const char* name;
  OpInstance (*make)(Random&);
  double f32_error, bf16_error;
  std::size_t first_parameter = 100;
};

void PrintTo(const LargeOp& op, std::ostream* out) {
  *out << op.name;
}

OpInstance large_linear(Random& r) {
  return {[](const auto& v, const auto&) { return ops::linear(v[0], v[1], v[2]); },
          {r.normal({3, 333, 770}), r.normal({2305, 770}), r.normal({2305})}};
}
OpInstance large_gelu_mlp(Random& r) {
  return {[](const auto& v, const auto&) {
            return ops::gelu_mlp(v[0], {v[1], v[3]}, {v[2], v[4]}, ops::Gelu::tanh);
          },
          {r.normal({2, 500, 256}), r.normal({1024, 256}, DType::f64, 0.06),
           r.normal({256, 1024}, DType::f64, 0.03), r.normal({1024}), r.normal({256})}};
}
OpInstance large_matmul(Random& r) {
  return {[](const auto& v, const auto&) { return ops::matmul(v[0], v[1], true, false); },
          {r.normal({6, 129, 515}), r.normal({6, 129, 257})}};
}
OpInstance large_cross_entropy(Random& r) {
  return {[](const auto& v, const auto& t) { return ops::cross_entropy(v[0], t[0]); },
          {r.normal({67, 50257}, DType::f64, 3)},
          {op_makers::targets(r, 67, 50257)}};
}
// Two chunks of rows and more, on a GPU and on the CPU.
OpInstance chunked_cross_entropy(Random& r) {
  constexpr int64_t kRows = 1111, kClasses = 262147, kWidth = 24;
  return {[](const auto& v, const auto& t) { return ops::linear_cross_entropy(v[0], v[1], v[2], t[0]); },
          {r.normal({kRows, kWidth}), r.normal({kClasses, kWidth}, DType::f64, 0.2), r.normal({kClasses})},
          {op_makers::targets(r, kRows, kClasses)}};
}
// Most ids are a few rows' of the table.
OpInstance repeating_embedding(Random& r) {
  Tensor ids = r.integers({4, 5000}, 0, 999);
  for (std::int32_t& id : std::span(ids.data<std::int32_t>(), static_cast<std::size_t>(ids.numel())))
    if (r.range(0, 9)) id = id % 3;
  return {[](const auto& v, const auto& t) { return ops::embedding(v[0], t[0]); },
          {r.normal({1000, 130})},
          {ids}};
}
OpInstance large_softmax(Random& r) {
  return {[](const auto& v, const auto&) { return ops::softmax(v[0]); },
          {r.normal({33, 70001}, DType::f64, 2)}};
}

constexpr LargeOp kLarge[] = {
    {"linear", large_linear, 1e-5, 1e-2, 1},
    {"gelu_mlp", large_gelu_mlp, 1e-5, 2e-2, 1},
    {"matmul", large_matmul, 1e-5, 1e-2},
    {"cross_entropy", large_cross_entropy, 1e-5, 1e-2},
    {"linear_cross_entropy", chunked_cross_entropy, 3e-5, 2e-2, 1},
    {"embedding", repeating_embedding, 1e-5, 1e-2, 0},
    {"softmax", large_softmax, 1e-5, 2e-2},
};

class CudaLargeOp : public CudaTestWith<LargeOp> {};
INSTANTIATE_TEST_SUITE_P(Core, CudaLargeOp, testing::ValuesIn(kLarge),
                         [](const auto& test) { return std::string(test.param.name); });

// Inputs that bf16 holds are the same for all dtypes. Here nothing cancels: errors are relative to the
// tensors' own sizes.
TEST_P(CudaLargeOp, AgreesInEveryDtype) {
  const LargeOp& op = GetParam();
  Random random(test_seed(), 210);
  Call call{op.make(random), {}, DType::bf16};
  for (Tensor& t : call.op.inputs) t = rounded(t, DType::bf16);
  call.types.assign(call.op.inputs.size(), DType::f64);
  const auto exact = run(call, Device::cpu());
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    SCOPED_TRACE(dtype_name(type));
    for (std::size_t i = 0; i < call.types.size(); ++i)
      call.types[i] = i < op.first_parameter ? type : accumulation_dtype(type);
    const auto first = run(call, device), second = run(call, device);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      EXPECT_TRUE(bitwise_equal(first[i], second[i])) << "two runs differ in tensor " << i;
      if (type == DType::f64)
        EXPECT_LE(relative_error(first[i], exact[i], 0), kDoubleError) << "tensor " << i;
      else if (type == DType::f32)
        EXPECT_LE(relative_error(first[i], exact[i], 0), op.f32_error) << "tensor " << i;
      else
        EXPECT_LE(norm_error(first[i], exact[i], 0), op.bf16_error) << "tensor " << i;
    }
  }
}

// Rows in bf16 from a table in f32, and its gradient in f32 from bf16.
TEST_F(CudaTest, EmbeddingInHalfOfASingleTable) {
  Random random(test_seed(), 211);
  for (const int64_t width : {1, 7, 64, 768}) {
    const Tensor table = random.normal({50, width}, DType::f32), ids = random.integers({3, 700}, 0, 49);
    const Tensor cotangent = random.normal({3, 700, width}, DType::bf16);
    const Var on_device(table.to(device), true), on_cpu(table.to(DType::f64), true);
    poison_free_memory(device);
    const Var y = ops::embedding(on_device, ids.to(device), DType::bf16);
    const Var exact = ops::embedding(on_cpu, ids);
    backward(y, cotangent.to(device));
    backward(exact, cotangent.to(DType::f64));
    EXPECT_TRUE(bitwise_equal(y.value().to(Device::cpu()), exact.value().to(DType::f32).to(DType::bf16)));
    EXPECT_EQ(on_device.grad().dtype(), DType::f32);
    EXPECT_LE(relative_error(on_device.grad().to(Device::cpu()), on_cpu.grad(), 1), 1e-5) << width;
  }
}

}  // namespace
}  // namespace filigree
