// sparse_attention on a GPU: f32 and f64 against the dense fp64 oracle as on the CPU, bf16 against it by
// norms, rows and columns long enough to be cut against the CPU's kernel. Every case runs twice, in memory
// full of NaN, and must give the same bits.
#include <cstring>

#include "tests/attention_cases.h"
#include "tests/cuda_device.h"

namespace filigree {
namespace {

using test::Case;
using test::CaseRange;
using test::Outcome;

// f32 and f64 in units of test::expect_close; bf16 as the norm of the error relative to that of the oracle.
struct Tolerance {
  DType dtype;
  double error;
};
constexpr Tolerance kPlain[] = {{DType::f64, 1e-10}, {DType::f32, 1e-5}};
constexpr Tolerance kHalf = {DType::bf16, 2e-2};
constexpr int kLeastTile = 32;

class AttentionCudaOracle : public CudaTest {
 protected:
  Outcome run_twice(const Case& c, DType dtype) const {
    poison_free_memory(device);
    const Outcome first = test::run_sparse(c, dtype, device);
    poison_free_memory(device);
    const Outcome second = test::run_sparse(c, dtype, device);
    expect_same_bits(first, second);
    return first;
  }

  static bool same_bits(const Tensor& a, const Tensor& b) {
    if (!a.defined() || !b.defined()) return a.defined() == b.defined();
    return a.shape() == b.shape() &&
           std::memcmp(a.raw_data(), b.raw_data(), static_cast<std::size_t>(a.bytes())) == 0;
  }
  static void expect_same_bits(const Outcome& a, const Outcome& b) {
    EXPECT_TRUE(same_bits(a.o, b.o)) << "o differs between two runs";
    EXPECT_TRUE(same_bits(a.lse, b.lse)) << "lse differs between two runs";
    for (std::size_t i = 0; i < a.grads.size(); ++i)
      EXPECT_TRUE(same_bits(a.grads[i], b.grads[i])) << "gradient " << i << " differs between two runs";
  }

  void compare_plain(int cases, const CaseRange& range, std::uint32_t site) const;
  void compare_half(int cases, const CaseRange& range, std::uint32_t site) const;
  void compare_own_layouts(int tile) const;
};

// --- f32 and f64 ---

void AttentionCudaOracle::compare_plain(int cases, const CaseRange& range, std::uint32_t site) const {
  double worst[std::size(kPlain)] = {};
  for (int i = 0; i < cases && !HasFailure(); ++i) {
    Random random(test_seed() + static_cast<std::uint64_t>(i), site);
    const Case c = test::random_case(random, range);
    SCOPED_TRACE(fmt::format("case {}: {}", i, c.text));
    const Outcome oracle = test::run_reference(c);
    for (std::size_t t = 0; t < std::size(kPlain); ++t) {
      SCOPED_TRACE(dtype_name(kPlain[t].dtype));
      test::expect_close(c, run_twice(c, kPlain[t].dtype), oracle, kPlain[t].error, &worst[t]);
    }
  }
  for (std::size_t t = 0; t < std::size(kPlain); ++t)
    std::cout << dtype_name(kPlain[t].dtype) << ": greatest error " << worst[t] << std::endl;
}

TEST_F(AttentionCudaOracle, SmallCases) {
  compare_plain(150, {.greatest_n = 150, .least_tile = kLeastTile}, 11);
}
TEST_F(AttentionCudaOracle, WideHeads) {
  compare_plain(40, {.greatest_n = 100, .least_tile = kLeastTile, .greatest_dim = 256}, 12);
}
TEST_F(AttentionCudaOracle, LargerCases) {
  compare_plain(6,
                {.least_n = 700,
                 .greatest_n = 1500,
                 .least_tile = kLeastTile,
                 .greatest_dim = 72,
                 .greatest_batch = 1,
                 .greatest_kv_heads = 1,
                 .greatest_group = 2},
                13);
}

// --- bf16 ---

// The case with the values that the kernel gets, so that only its own rounding counts.
Case rounded(Case c) {
  for (Tensor* t : {&c.q, &c.k, &c.v, &c.cotangent}) *t = t->to(DType::bf16).to(DType::f64);
  for (Tensor* t : {&c.gate, &c.slopes})
    if (t->defined()) *t = t->to(DType::f32).to(DType::f64);
  return c;
}

// ||x - oracle|| / max(||oracle||, least_norm); infinite elements must be equal. No gradient means 0.
double norm_error(const Tensor& x, const Tensor& oracle, double least_norm) {
  if (!x.defined() && !oracle.defined()) return 0;
  const std::int64_t n = x.defined() ? x.numel() : oracle.numel();
  double difference = 0, size = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double a = x.defined() ? x.item(i) : 0, b = oracle.defined() ? oracle.item(i) : 0;
    if (a == b && !std::isfinite(b)) continue;
    if (!std::isfinite(a) || !std::isfinite(b)) return std::numeric_limits<double>::infinity();
    difference += (a - b) * (a - b);
    size += b * b;
  }
  return std::sqrt(difference) / std::max(std::sqrt(size), least_norm);
}

// What the norms of the gradients through the softmax count as at least. Those are sums of P (dP - Delta), of
// which often nothing is left but rounding. The rounding of a product dO v or dO o in bf16 has the size of
// the root of the sum of its squared terms; a tenth of that at full weight.
struct LeastNorms {
  double q, k, gate;
  std::vector<std::uint8_t> gate_is_cut;
};

LeastNorms least_norms(const Case& c, const Outcome& oracle) {
  constexpr double kShare = 0.1;
  const std::int64_t D = c.q.dim(3);
  std::vector<double> q_sums(static_cast<std::size_t>(c.q.numel() / D)),
      k_sums(static_cast<std::size_t>(c.k.numel() / D));
  std::vector<double> gate_sums(static_cast<std::size_t>(c.q.dim(0) * c.layout->gate_size() + 1));
  std::vector<std::uint8_t> gate_is_cut(gate_sums.size());
  const auto noise = [&](const Tensor& y, std::int64_t row, std::int64_t y_row) {
    const double *a = c.cotangent.data<double>() + row * D, *b = y.data<double>() + y_row * D;
    double squares = 0;
    for (std::int64_t d = 0; d < D; ++d) squares += a[d] * a[d] * b[d] * b[d];
    return std::sqrt(squares);
  };
  test::for_each_pair(c, oracle.lse, [&](const test::Pair& pair) {
    const auto g = static_cast<std::size_t>(pair.gate_index);
    if (pair.p0 > std::exp2(test::kGreatestExponent)) {
      gate_is_cut[g] = 1;
      return;
    }
    const double term = pair.p0 * (noise(c.v, pair.row, pair.key) + noise(oracle.o, pair.row, pair.row));
    gate_sums[g] += term;
    q_sums[static_cast<std::size_t>(pair.row)] += test::scale_of(c) * pair.gate * term;
    k_sums[static_cast<std::size_t>(pair.key)] += test::scale_of(c) * pair.gate * term;
  });
  const auto norm = [](const std::vector<double>& x, std::int64_t times) {
    return kShare *
           std::sqrt(static_cast<double>(times) * std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
  };
  return {norm(q_sums, D), norm(k_sums, D), norm(gate_sums, 1), gate_is_cut};
}

void expect_close_norms(const Case& c, const Outcome& x, const Outcome& oracle, double* worst) {
  const auto expect = [&](const char* name, const Tensor& a, const Tensor& b, double least_norm) {
    const double error = norm_error(a, b, least_norm);
    *worst = std::max(*worst, error);
    EXPECT_LE(error, kHalf.error) << name;
  };
  constexpr double kTiny = 1e-30;  // only against 0 / 0
  const LeastNorms least = least_norms(c, oracle);
  expect("o", x.o, oracle.o, kTiny);
  expect("lse", x.lse, oracle.lse, 0.1 * std::sqrt(static_cast<double>(x.lse.numel())));
  expect("dq", x.grads[0], oracle.grads[0], least.q + kTiny);
  expect("dk", x.grads[1], oracle.grads[1], least.k + kTiny);
  expect("dv", x.grads[2], oracle.grads[2], kTiny);
  Tensor gate_grad = x.grads[3], expected = oracle.grads[3];
  test::drop_cut_elements(least.gate_is_cut, gate_grad, expected);
  expect("dgate", gate_grad, expected, least.gate + kTiny);
}

void AttentionCudaOracle::compare_half(int cases, const CaseRange& range, std::uint32_t site) const {
  double worst = 0;
  for (int i = 0; i < cases && !HasFailure(); ++i) {
    Random random(test_seed() + static_cast<std::uint64_t>(i), site);
    const Case c = rounded(test::random_case(random, range));
    SCOPED_TRACE(fmt::format("bf16 case {}: {}", i, c.text));
    expect_close_norms(c, run_twice(c, kHalf.dtype), test::run_reference(c), &worst);
  }
  std::cout << "bf16: greatest error of a norm " << worst << std::endl;
}

TEST_F(AttentionCudaOracle, SmallCasesInHalf) {
  compare_half(
      300,
      {.greatest_n = 150, .least_tile = kLeastTile, .least_dim = 32, .greatest_dim = 128, .dim_step = 16},
      14);
}
TEST_F(AttentionCudaOracle, LargerCasesInHalf) {
  compare_half(8,
               {.least_n = 700,
                .greatest_n = 1500,
                .least_tile = kLeastTile,
                .least_dim = 32,
                .greatest_dim = 128,
                .dim_step = 16,
                .greatest_batch = 1,
                .greatest_kv_heads = 1,
                .greatest_group = 2},
               15);
}

// What Hopper's products take; and the same with the kernels of other cards.
constexpr CaseRange kHopperRange = {
    .greatest_n = 300, .least_tile = 64, .least_dim = 64, .greatest_dim = 128, .dim_step = 64};

TEST_F(AttentionCudaOracle, ShapesOfHopperInHalf) {
  compare_half(200, kHopperRange, 17);
  compare_half(8,
               {.least_n = 700,
                .greatest_n = 1500,
                .least_tile = 64,
                .least_dim = 64,
                .greatest_dim = 128,
                .dim_step = 64,
                .greatest_batch = 1,
                .greatest_kv_heads = 1,
                .greatest_group = 2},
               18);
}
TEST_F(AttentionCudaOracle, ShapesOfHopperOnPortableKernelsInHalf) {
  ASSERT_EQ(setenv("FILIGREE_CUDA_KERNELS", "portable", 1), 0);
  compare_half(60, kHopperRange, 19);
  ASSERT_EQ(unsetenv("FILIGREE_CUDA_KERNELS"), 0);
}

// --- rows and columns that are cut ---

// Of the pattern's global tokens, rows see and columns are seen by all 10,021 positions: 314 tiles of 32,
// where a segment has 256 (157 of 64, where it has 128), and twice as many entries for the key tile, which
// two heads share.
Case long_case(Random& random, const std::string& pattern, std::int64_t D, int tile) {
  constexpr std::int64_t kN = 10021;
  constexpr int kHeads = 2;
  Case c;
  c.text = pattern;
  c.layout = std::make_shared<TileLayout>(
      build_layout(*test::parse_pattern(pattern, kHeads), Geometry{kN, false, tile}, kHeads));
  test::choose_inputs(random, c, 1, kHeads, 1, D);
  c.gate = random.uniform({1, c.layout->gate_size()}, 0.5, 2);
  c.row_bounds = Tensor::zeros({1, kN, 2}, DType::i32);
  for (std::int64_t n = 0; n < kN; ++n) {
    auto* bounds = c.row_bounds.data<std::int32_t>() + 2 * n;
    bounds[0] = n % 7 == 3 ? 5 : 0;
    bounds[1] = static_cast<std::int32_t>(n % 1000 == 0 ? 0 : kN);  // some rows without keys
  }
  c.slopes = Tensor::full({kHeads}, 1e-3, DType::f64);
  return c;
}

TEST_F(AttentionCudaOracle, CutRowsAndColumns) {
  struct {
    std::int64_t head_dim;
    int tile;
    const char* pattern;
  } const cases[] = {{32, 32, "{longformer: {window: 64, global: 2}}"},
                     {64, 32, "{union: [{local: {window: 40}}, {global: {positions: [3, 5000]}}]}"},
                     {128, 64, "{union: [{local: {window: 40}}, {global: {positions: [3, 5000]}}]}"},
                     {64, 128, "{longformer: {window: 64, global: 2}}"},
                     {128, 128, "{union: [{local: {window: 40}}, {global: {positions: [3, 5000]}}]}"}};
  std::uint32_t site = 16 << 8;
  for (const auto& [head_dim, tile, pattern] : cases) {
    Random random(test_seed(), site++);
    const Case c = rounded(long_case(random, pattern, head_dim, tile));
    SCOPED_TRACE(c.text);
    const Outcome oracle = test::run_sparse(c, DType::f64);
    const char* names[] = {"dq", "dk", "dv", "dgate"};
    for (const Tolerance& t : kPlain) {
      SCOPED_TRACE(dtype_name(t.dtype));
      const Outcome x = run_twice(c, t.dtype);
      EXPECT_LE(test::error_of(x.o, oracle.o), t.error);
      EXPECT_LE(test::error_of(x.lse, oracle.lse), t.error);
      for (std::size_t g = 0; g < 4; ++g)
        EXPECT_LE(test::error_of(x.grads[g], oracle.grads[g]), t.error) << names[g];
    }
    SCOPED_TRACE("bf16");
    const Outcome x = run_twice(c, kHalf.dtype);
    EXPECT_LE(norm_error(x.o, oracle.o, 0), kHalf.error);
    EXPECT_LE(norm_error(x.lse, oracle.lse, 0), kHalf.error);
    for (std::size_t g = 0; g < 4; ++g)
      EXPECT_LE(norm_error(x.grads[g], oracle.grads[g], 0), kHalf.error) << names[g];
  }
}

// --- sequences with layouts of their own ---

// Cut rows and columns too: each sequence gives the bits that it gives alone.
void AttentionCudaOracle::compare_own_layouts(int tile) const {
  Random random(test_seed(), 20);
  std::vector<Case> alone;
  std::vector<LayoutPtr> layouts;
  for (const char* pattern : {"{longformer: {window: 64, global: 2}}", "{local: {window: 40}}",
                              "{union: [{local: {window: 40}}, {global: {positions: [3, 5000]}}]}"}) {
    alone.push_back(long_case(random, pattern, 64, tile));
    alone.back().gate = alone.back().gate.reshape({alone.back().gate.numel()});
    layouts.push_back(alone.back().layout);
  }
  Case together = alone[0];
  together.layout = test::join(layouts);
  const auto join = [&](Tensor Case::*member) {
    std::int64_t n = 0;
    for (const Case& c : alone) n += (c.*member).dim(0);
    const Tensor all = Tensor::empty((alone[0].*member).shape().with(0, n), (alone[0].*member).dtype());
    n = 0;
    for (const Case& c : alone) {
      all.slice(n, n + (c.*member).dim(0)).copy_from(c.*member);
      n += (c.*member).dim(0);
    }
    together.*member = all;
  };
  for (Tensor Case::*member :
       {&Case::q, &Case::k, &Case::v, &Case::cotangent, &Case::gate, &Case::row_bounds})
    join(member);
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Outcome x = run_twice(together, dtype);
    std::int64_t first_gate = 0;
    for (std::size_t b = 0; b < alone.size(); ++b) {
      SCOPED_TRACE(fmt::format("{}, sequence {}", dtype_name(dtype), b));
      const Outcome y = run_twice(alone[b], dtype);
      const auto part = [&](const Tensor& t) {
        return t.slice(static_cast<std::int64_t>(b), static_cast<std::int64_t>(b) + 1);
      };
      EXPECT_TRUE(same_bits(part(x.o), y.o));
      EXPECT_TRUE(same_bits(part(x.lse), y.lse));
      for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(part(x.grads[i]), y.grads[i])) << i;
      const std::int64_t end = first_gate + layouts[b]->gate_size();
      EXPECT_TRUE(same_bits(x.grads[3].slice(first_gate, end), y.grads[3]));
      first_gate = end;
    }
  }
}
TEST_F(AttentionCudaOracle, SequencesWithTheirOwnLayoutsAreComputedAsAlone) {
  compare_own_layouts(32);
  compare_own_layouts(64);  // on Hopper, its own kernels
  compare_own_layouts(128);
}

// So many long rows that Hopper's backward does not cut them, against the kernels of other cards.
TEST_F(AttentionCudaOracle, DenseRowsStayWhole) {
  for (const std::int64_t D : {64, 128}) {
    Random random(test_seed(), 21);
    Case c;
    c.layout = std::make_shared<TileLayout>(
        build_layout(*test::parse_pattern("{full: {}}", 8), Geometry{8500, true, 128}, 8));
    test::choose_inputs(random, c, 1, 8, 8, D);
    const Outcome x = run_twice(c, kHalf.dtype);
    ASSERT_EQ(setenv("FILIGREE_CUDA_KERNELS", "portable", 1), 0);
    const Outcome portable = test::run_sparse(c, kHalf.dtype, device);
    ASSERT_EQ(unsetenv("FILIGREE_CUDA_KERNELS"), 0);
    for (std::size_t g = 0; g < 3; ++g)
      EXPECT_LE(norm_error(x.grads[g], portable.grads[g], 0), kHalf.error) << "gradient " << g;
  }
}

// --- q, k and v in one tensor ---

// [B, N, H, D], [B, N, G, D], [B, N, G, D] -> [B, N, H + 2 G, D], on the CPU.
Tensor packed(const Tensor& q, const Tensor& k, const Tensor& v) {
  const std::int64_t rows = q.dim(0) * q.dim(1), heads = q.dim(2) + k.dim(2) + v.dim(2);
  Tensor all = Tensor::empty({q.dim(0), q.dim(1), heads, q.dim(3)}, q.dtype());
  auto* to = static_cast<char*>(all.raw_data());
  for (std::int64_t row = 0; row < rows; ++row)
    for (const Tensor* part : {&q, &k, &v}) {
      const std::int64_t bytes = part->bytes() / rows;
      std::memcpy(to, static_cast<const char*>(part->raw_data()) + row * bytes,
                  static_cast<std::size_t>(bytes));
      to += bytes;
    }
  return all;
}

TEST_F(AttentionCudaOracle, PackedHeadsGiveTheSameBits) {
  const CaseRange range{
      .greatest_n = 150, .least_tile = kLeastTile, .least_dim = 32, .greatest_dim = 128, .dim_step = 16};
  int compared = 0;
  for (int i = 0; compared < 20; ++i) {
    Random random(test_seed() + static_cast<std::uint64_t>(i), 18);
    const Case c = test::random_case(random, range);
    if (c.layout->n_queries() != c.layout->n_keys()) continue;
    ++compared;
    SCOPED_TRACE(fmt::format("case {}: {}", i, c.text));
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      const Outcome apart = run_twice(c, dtype);
      const Var qkv(packed(c.q, c.k, c.v).to(dtype).to(device), true);
      const Outcome together = test::run(
          c, dtype, device, [&](const Var&, const Var&, const Var&, const AttentionOptions& options) {
            return sparse_attention_qkv(qkv, c.k.dim(2), c.layout, 0, options);
          });
      EXPECT_TRUE(same_bits(apart.o, together.o)) << dtype_name(dtype);
      EXPECT_TRUE(same_bits(apart.lse, together.lse)) << dtype_name(dtype);
      EXPECT_TRUE(same_bits(apart.grads[3], together.grads[3])) << dtype_name(dtype);
      EXPECT_TRUE(
          same_bits(packed(apart.grads[0], apart.grads[1], apart.grads[2]), qkv.grad().to(Device::cpu())))
          << dtype_name(dtype);
    }
  }
}

TEST_F(AttentionCudaOracle, RefusesWhatItDoesNotCompute) {
  const auto refuses = [&](int tile, std::int64_t D, DType dtype) {
    const PatternPtr pattern = test::parse_pattern("{full: {}}");
    const auto layout = std::make_shared<TileLayout>(build_layout(*pattern, Geometry{40, true, tile}, 1));
    const Var x(Tensor::zeros({1, 40, 1, D}, dtype, device));
    try {
      sparse_attention(x, x, x, layout);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::usage);
      return true;
    }
    return false;
  };
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) EXPECT_TRUE(refuses(16, 64, dtype));
  for (const std::int64_t D : {16, 24, 40, 144, 256}) {
    EXPECT_TRUE(refuses(32, D, DType::bf16)) << D;
    EXPECT_FALSE(refuses(32, D, DType::f32)) << D;
  }
}

}  // namespace
}  // namespace filigree
