// sparse_attention beside the oracle test: differences, threads, edges, the meta device and bad calls.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "attention/device_layout.h"
#include "core/parallel.h"
#include "tests/attention_cases.h"
#include "tests/attention_reference.h"

namespace filigree {
namespace {

LayoutPtr layout_of(const std::string& pattern, std::int64_t n, int n_heads, int tile = 16,
                    bool causal = true) {
  return std::make_shared<TileLayout>(
      build_layout(*test::parse_pattern(pattern, n_heads), {n, causal, tile}, n_heads));
}

struct Inputs {
  Tensor q, k, v;
};
Inputs random_inputs(Random& random, std::int64_t B, std::int64_t N, std::int64_t H, std::int64_t G,
                     std::int64_t D, DType dtype = DType::f64) {
  return {random.normal({B, N, H, D}, dtype), random.normal({B, N, G, D}, dtype),
          random.normal({B, N, G, D}, dtype)};
}

struct Outcome {
  Tensor o, lse;
  std::vector<Tensor> grads;
};

Outcome run(const Inputs& in, const LayoutPtr& layout, const Tensor& o_grad, AttentionOptions options = {},
            const Tensor& gate = {}) {
  const Var q(in.q, true), k(in.k, true), v(in.v, true);
  if (gate.defined()) options.gate = Var(gate, true);
  Outcome outcome;
  options.lse = &outcome.lse;
  const Var o = sparse_attention(q, k, v, layout, options);
  backward(o, o_grad);
  outcome.o = o.value();
  outcome.grads = {q.grad(), k.grad(), v.grad()};
  if (gate.defined()) outcome.grads.push_back(options.gate.grad());
  return outcome;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.raw_data(), b.raw_data(), static_cast<std::size_t>(a.bytes())) == 0;
}

double greatest_difference(const Tensor& a, const Tensor& b) {
  double difference = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i)
    difference = std::max(difference, std::abs(a.item(i) - b.item(i)));
  return difference;
}

// Documents of 7 rows, the last row padding.
Tensor short_documents(std::int64_t B, std::int64_t N) {
  Tensor bounds = Tensor::zeros({B, N, 2}, DType::i32);
  for (std::int64_t i = 0; i < B * N; ++i) {
    const std::int64_t n = i % N;
    if (n == N - 1) continue;
    bounds.data<std::int32_t>()[2 * i] = static_cast<std::int32_t>(n / 7 * 7);
    bounds.data<std::int32_t>()[2 * i + 1] = static_cast<std::int32_t>(std::min(N, n / 7 * 7 + 7));
  }
  return bounds;
}

using AttentionFunction =
    std::function<Var(const std::vector<Var>&, const LayoutPtr&, const AttentionOptions&)>;

// 20 shapes against differences. `switched_off`: every second case has a gate at 0, whose difference needs m
// < 0, which only the reference can do; each row keeps another tile, for without one it jumps to 0.
void check_gradients(const AttentionFunction& attention, bool switched_off) {
  Random random(test_seed(), 7);
  for (int i = 0; i < 20; ++i) {
    const bool gated = i % 2, zero = gated && switched_off;
    const std::int64_t G = random.range(1, 2), H = G * random.range(1, 2), N = random.size(zero ? 17 : 1, 22);
    const std::int64_t B = random.range(1, 2), D = random.size(1, 9);
    const auto heads = static_cast<int>(H);
    const std::string pattern = zero ? "{full: {}}" : test::random_pattern(random.stream(), N, heads, 1);
    const auto layout = layout_of(pattern, N, heads, 16, !zero && random.coin());
    SCOPED_TRACE(fmt::format("B={} N={} H={} G={} D={} {}", B, N, H, G, D, pattern));
    const Inputs in = random_inputs(random, B, N, H, G, D);
    std::vector<Tensor> leaves = {in.q, in.k, in.v};
    if (zero)  // scores below 1: a gate at 0 before a large one bends too fast for differences
      for (Tensor& t : {std::ref(leaves[0]), std::ref(leaves[1])})
        for (std::int64_t e = 0; e < t.numel(); ++e)
          t.data<double>()[e] = 0.5 * std::tanh(t.data<double>()[e]);
    AttentionOptions options;
    if (const std::int64_t S = layout->gate_size(); gated && S > 0) {
      leaves.push_back(random.uniform(random.coin() ? Shape{S} : Shape{B, S}, 0.3, 2));
      if (zero) leaves.back().data<double>()[leaves.back().numel() - 1] = 0;
    }
    if (i % 3 == 1 && !zero) options.row_bounds = short_documents(B, N);
    if (i % 5 == 1) options.alibi_slopes = alibi_slopes(heads, DType::f64, Device::cpu());
    ASSERT_TRUE(gradients_agree(
        [&](const std::vector<Var>& v) {
          AttentionOptions with_gate = options;
          if (v.size() > 3) with_gate.gate = v[3];
          return attention(v, layout, with_gate);
        },
        leaves, {.max_elements = 12}));
  }
}

TEST(SparseAttention, GradientsAgreeWithDifferences) {
  check_gradients(
      [](const std::vector<Var>& v, const LayoutPtr& layout, const AttentionOptions& options) {
        return sparse_attention(v[0], v[1], v[2], layout, options);
      },
      false);
}

TEST(ReferenceAttention, GradientsAgreeWithDifferences) {
  check_gradients(
      [](const std::vector<Var>& v, const LayoutPtr& layout, const AttentionOptions& options) {
        return reference_attention(v[0], v[1], v[2], allowed_pairs(*layout), *layout, options);
      },
      true);
}

// Several row blocks per key tile, so that tasks take turns at dk and dv, and long columns beside short ones.
TEST(SparseAttention, LongSequencesAgreeWithTheReference) {
  Random random(test_seed(), 8);
  const std::int64_t N = 2 * 2048 / 4 + 1100;  // beyond one block of 2048 rows
  for (const int tile : {16, 64}) {
    const auto layout = layout_of("{longformer: {window: 40, global: 2}}", N, 2, tile, tile == 16);
    const Inputs in = random_inputs(random, 1, N, 2, 1, 4);
    const Tensor o_grad = random.normal(in.q.shape());
    const Outcome x = run(in, layout, o_grad);
    const Var q(in.q, true), k(in.k, true), v(in.v, true);
    const Var o = reference_attention(q, k, v, allowed_pairs(*layout), *layout);
    backward(o, o_grad);
    EXPECT_LE(greatest_difference(x.o, o.value()), 1e-11);
    EXPECT_LE(greatest_difference(x.grads[0], q.grad()), 1e-10);
    EXPECT_LE(greatest_difference(x.grads[1], k.grad()), 1e-10);
    EXPECT_LE(greatest_difference(x.grads[2], v.grad()), 1e-10);
  }
}

TEST(SparseAttention, AnyNumberOfThreadsGivesTheSameBits) {
  Random random(test_seed(), 9);
  for (const DType dtype : {DType::f32, DType::f64})
    for (const int tile : {16, 32, 64, 128}) {
      const std::int64_t N = random.range(300, 2300), B = random.range(1, 2);
      const auto layout =
          layout_of("{bigbird: {block: 20, window: 3, global: 1, random: 2, seed: 5}}", N, 4, tile);
      const Inputs in = random_inputs(random, B, N, 4, 2, 24, dtype);
      const Tensor o_grad = random.normal(in.q.shape(), dtype);
      const Tensor gate = random.uniform({layout->gate_size()}, 0.5, 1.5, dtype);
      AttentionOptions options;
      options.row_bounds = short_documents(B, N);
      if (tile != 16) options.row_bounds = {};
      set_n_threads(1);
      const Outcome one = run(in, layout, o_grad, options, gate);
      for (const int threads : {2, 3}) {
        set_n_threads(threads);
        const Outcome more = run(in, layout, o_grad, options, gate);
        EXPECT_TRUE(same_bits(one.o, more.o) && same_bits(one.lse, more.lse)) << threads;
        for (std::size_t i = 0; i < one.grads.size(); ++i)
          EXPECT_TRUE(same_bits(one.grads[i], more.grads[i])) << threads << " threads, gradient " << i;
      }
    }
  set_n_threads(0);
}

// Every task wants to add to the same few keys (many queries) or to the same few queries (many keys), out of
// turn if it could.
// A layout for each sequence gives the bits that the sequences give alone.
TEST(SparseAttention, SequencesWithTheirOwnLayoutsAreComputedAsAlone) {
  Random random(test_seed(), 31);
  for (int round = 0; round < 20; ++round) {
    constexpr std::int64_t B = 3;
    const std::int64_t N = random.size(20, 120), G = random.range(1, 2), H = G * random.range(1, 2);
    std::vector<LayoutPtr> layouts;
    for (std::int64_t b = 0; b < B; ++b)
      layouts.push_back(layout_of(test::random_pattern(random.stream(), N, static_cast<int>(H), 1), N,
                                  static_cast<int>(H)));
    const LayoutPtr joint = test::join(layouts);
    const Inputs in = random_inputs(random, B, N, H, G, 12, DType::f32);
    const Tensor o_grad = random.normal(in.q.shape(), DType::f32);
    const Tensor gate = random.uniform({joint->gate_size()}, 0, 2, DType::f32);
    const Outcome together = run(in, joint, o_grad, {}, gate);
    std::int64_t first_gate = 0;
    for (std::int64_t b = 0; b < B; ++b) {
      const LayoutPtr& layout = layouts[static_cast<std::size_t>(b)];
      const auto of = [&](const Tensor& t) { return t.slice(b, b + 1).clone(); };
      const std::int64_t end = first_gate + layout->gate_size();
      const Outcome alone =
          run({of(in.q), of(in.k), of(in.v)}, layout, of(o_grad), {}, gate.slice(first_gate, end).clone());
      EXPECT_TRUE(same_bits(of(together.o), alone.o));
      EXPECT_TRUE(same_bits(of(together.lse), alone.lse));
      for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(of(together.grads[i]), alone.grads[i])) << i;
      EXPECT_TRUE(same_bits(together.grads[3].slice(first_gate, end), alone.grads[3]));
      first_gate = end;
    }
    EXPECT_EQ(first_gate, joint->gate_size());
  }
}

TEST(SparseAttention, TasksTakeTurns) {
  Random random(test_seed(), 15);
  for (const auto& [N, M] : {std::pair(30000, 40), std::pair(40, 30000)}) {
    TilePattern all;
    all.row_offsets.push_back(0);
    const int tile = 16, key_tiles = (M + tile - 1) / tile;
    for (int q = 0; q * tile < N; ++q) {
      for (int k = 0; k < key_tiles; ++k) all.columns.push_back(k);
      all.row_offsets.push_back(static_cast<std::int32_t>(all.columns.size()));
    }
    all.mask_id.assign(all.columns.size(), kFullTile);
    const auto layout =
        std::make_shared<TileLayout>(N, M, tile, false, std::vector{all}, std::vector{0}, MaskTable(tile));
    const Tensor q = random.normal({1, N, 1, 16}, DType::f32), k = random.normal({1, M, 1, 16}, DType::f32);
    const Inputs in = {q, k, random.normal(k.shape(), DType::f32)};
    const Tensor o_grad = random.normal(q.shape(), DType::f32);
    set_n_threads(1);
    const Outcome one = run(in, layout, o_grad);
    set_n_threads(4);
    for (int i = 0; i < 5; ++i) {
      const Outcome four = run(in, layout, o_grad);
      for (std::size_t x = 0; x < one.grads.size(); ++x)
        EXPECT_TRUE(same_bits(one.grads[x], four.grads[x])) << x;
    }
  }
  set_n_threads(0);
}

TEST(SparseAttention, GatesAtOneChangeNothing) {
  Random random(test_seed(), 10);
  const auto layout = layout_of("{local: {window: 30}}", 100, 2);
  const Inputs in = random_inputs(random, 1, 100, 2, 2, 16, DType::f32);
  const Tensor o_grad = random.normal(in.q.shape(), DType::f32);
  const Outcome plain = run(in, layout, o_grad);
  const Outcome gated = run(in, layout, o_grad, {}, Tensor::full({layout->gate_size()}, 1));
  EXPECT_TRUE(same_bits(plain.o, gated.o));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(plain.grads[i], gated.grads[i]));
}

TEST(SparseAttention, HeadDimensionOf256) {
  Random random(test_seed(), 11);
  const auto layout = layout_of("{full: {}}", 70, 1, 64);
  const Inputs in = random_inputs(random, 1, 70, 1, 1, 256);
  const Tensor o_grad = random.normal(in.q.shape());
  const Outcome x = run(in, layout, o_grad);
  const Var q(in.q, true), k(in.k, true), v(in.v, true);
  const Var o = reference_attention(q, k, v, allowed_pairs(*layout), *layout);
  backward(o, o_grad);
  EXPECT_LE(greatest_difference(x.o, o.value()), 1e-12);
  EXPECT_LE(greatest_difference(x.grads[1], k.grad()), 1e-11);
}

// Scores so far apart that e^(S - lse) of a switched-off tile overflows.
TEST(SparseAttention, SwitchedOffTilesStayFinite) {
  const auto layout = layout_of("{full: {}}", 32, 1);
  for (const DType dtype : {DType::f32, DType::f64}) {
    Tensor q = Tensor::full({1, 32, 1, 1}, 40, dtype), k = Tensor::full({1, 32, 1, 1}, 1, DType::f64);
    for (int j = 0; j < 16; ++j) k.data<double>()[j] = 40;  // the first key tile's scores are 1560 greater
    Random random(test_seed(), 12);
    const Inputs in = {q, k.to(dtype), random.normal({1, 32, 1, 1}, dtype)};
    Tensor gate = Tensor::full({layout->gate_size()}, 1, DType::f64);
    const TilePattern& pattern = layout->patterns()[0];
    for (auto t = pattern.row_offsets[1]; t < pattern.row_offsets[2]; ++t)
      if (pattern.columns[t] == 0) gate.data<double>()[t] = 0;
    const Outcome x = run(in, layout, random.normal({1, 32, 1, 1}, dtype), {}, gate.to(dtype));
    for (const auto& grad : x.grads)
      for (std::int64_t i = 0; i < grad.numel(); ++i) EXPECT_TRUE(std::isfinite(grad.item(i)));
  }
}

TEST(SparseAttention, RowsWithoutKeysGiveZero) {
  Random random(test_seed(), 13);
  const std::int64_t N = 40;
  const auto layout = layout_of("{local: {window: 5}}", N, 1);
  const Inputs in = random_inputs(random, 1, N, 1, 1, 8, DType::f32);
  Tensor bounds = Tensor::zeros({1, N, 2}, DType::i32);
  for (int i = 0; i < 20; ++i) bounds.data<std::int32_t>()[2 * i + 1] = 20;  // the rest is padding
  AttentionOptions options;
  options.row_bounds = bounds;
  const Outcome x = run(in, layout, random.normal(in.q.shape(), DType::f32), options);
  for (std::int64_t i = 0; i < N; ++i) {
    EXPECT_EQ(std::isinf(x.lse.item(i)), i >= 20) << i;
    for (std::int64_t d = 0; d < 8; ++d) {
      if (i < 20) {
        EXPECT_NE(x.o.item(i * 8 + d), 0);
        EXPECT_NE(x.grads[2].item(i * 8 + d), 0);
        continue;
      }
      EXPECT_EQ(x.o.item(i * 8 + d), 0);
      for (const auto& grad : x.grads) EXPECT_EQ(grad.item(i * 8 + d), 0);
    }
  }
}

TEST(SparseAttention, NanStaysVisible) {
  Random random(test_seed(), 14);
  const auto layout = layout_of("{local: {window: 5}}", 40, 1);
  const Inputs in = random_inputs(random, 1, 40, 1, 1, 8, DType::f32);
  in.q.slice(0, 1).data<float>()[20 * 8] = std::numeric_limits<float>::quiet_NaN();
  const Outcome x = run(in, layout, random.normal(in.q.shape(), DType::f32));
  for (std::int64_t i = 0; i < 40; ++i) EXPECT_EQ(std::isnan(x.o.item(i * 8)), i == 20) << i;
  EXPECT_TRUE(std::isnan(x.grads[1].item(20 * 8)));
}

TEST(SparseAttention, MetaPredictsTheMemory) {
  const auto layout = layout_of("{local: {window: 30}}", 200, 4);
  const auto peak_on = [&](Device device) {
    const auto zeros = [&](const Shape& shape) { return Tensor::zeros(shape, DType::f32, device); };
    allocator(device).reset_peak();
    const std::int64_t before = allocator(device).statistics().in_use;
    const Inputs in = {zeros({2, 200, 4, 20}), zeros({2, 200, 2, 20}), zeros({2, 200, 2, 20})};
    const Outcome x = run(in, layout, zeros({2, 200, 4, 20}), {}, zeros({layout->gate_size()}));
    EXPECT_EQ(x.o.device(), device);
    EXPECT_EQ(x.grads[1].shape(), in.k.shape());
    return allocator(device).statistics().peak_in_use - before;
  };
  EXPECT_EQ(peak_on(Device::meta()), peak_on(Device::cpu()));
}

TEST(SparseAttention, MetaInAGpusPlaceCountsTheSegmentsOfCutRows) {
  const std::int64_t n = 16384, heads = 2, dim = 32;
  const Device device = Device::meta_cuda();
  const auto layout = layout_of("{full: {}}", n, heads, 64);
  const std::int64_t slots = make_device_layout(*layout, 1, device).key_work.n_slots;
  ASSERT_GT(slots, 0) << "rows of more than 8192 keys are cut";
  const std::int64_t segments = 2 * slots * layout->tile() * dim * 4;  // of dk and dv, f32
  allocator(device).reset_peak();
  const std::int64_t before = allocator(device).statistics().in_use;
  const Var qkv(Tensor::zeros({1, n, heads + 2, dim}, DType::bf16, device), true);
  const Var o = sparse_attention_qkv(qkv, 1, layout);
  const Tensor o_grad = Tensor::zeros(o.shape(), DType::bf16, device);
  backward(o, o_grad);
  const std::int64_t tensors = qkv.value().bytes() + qkv.grad().bytes() + o.value().bytes() + o_grad.bytes();
  EXPECT_GT(allocator(device).statistics().peak_in_use - before, tensors + segments);
}

TEST(SparseAttention, BadCallsSayWhatIsWrong) {
  const auto layout = layout_of("{full: {}}", 20, 4);
  const auto zeros = [](const Shape& shape, DType dtype = DType::f32) {
    return Var(Tensor::zeros(shape, dtype));
  };
  const Var q = zeros({2, 20, 4, 8}), kv = zeros({2, 20, 2, 8});
  const auto expect = [](const std::string& text, const std::function<void()>& call) {
    try {
      call();
      ADD_FAILURE() << "no error: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_EQ(std::string(error.what()).rfind("[sparse_attention] ", 0), 0u) << error.what();
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  const auto with = [&](auto&& change) {
    return [&q, &kv, &layout, change] {
      AttentionOptions options;
      change(options);
      sparse_attention(q, kv, kv, layout, options);
    };
  };
  expect("no layout", [&] { sparse_attention(q, kv, kv, nullptr); });
  expect("q has shape [20, 4, 8]", [&] { sparse_attention(zeros({20, 4, 8}), kv, kv, layout); });
  expect("v has shape [2, 19, 2, 8]", [&] { sparse_attention(q, kv, zeros({2, 19, 2, 8}), layout); });
  expect("k has shape [1, 20, 2, 8]", [&] { sparse_attention(q, zeros({1, 20, 2, 8}), kv, layout); });
  expect("4 query heads for 3 kv heads", [&] {
    sparse_attention(q, zeros({2, 20, 3, 8}), zeros({2, 20, 3, 8}), layout);
  });
  expect("v is f64", [&] { sparse_attention(q, kv, zeros({2, 20, 2, 8}, DType::f64), layout); });
  expect("not bf16", [&] { sparse_attention(zeros({2, 20, 4, 8}, DType::bf16), kv, kv, layout); });
  expect("head dim 300", [&] {
    const Var big = zeros({2, 20, 4, 300});
    sparse_attention(big, big, big, layout);
  });
  expect("the layout is for 20 queries", [&] {
    const Var longer = zeros({2, 21, 4, 8});
    sparse_attention(longer, longer, longer, layout);
  });
  expect("gate has shape [3]", with([&](AttentionOptions& o) { o.gate = zeros({3}); }));
  expect("gate is f64",
         with([&](AttentionOptions& o) { o.gate = zeros({layout->gate_size()}, DType::f64); }));
  expect("row_bounds has shape [20, 2]", with([](AttentionOptions& o) {
           o.row_bounds = Tensor::zeros({20, 2}, DType::i32);
         }));
  expect("row_bounds is f32", with([](AttentionOptions& o) { o.row_bounds = Tensor::zeros({2, 20, 2}); }));
  expect("alibi_slopes has shape [2]",
         with([](AttentionOptions& o) { o.alibi_slopes = Tensor::zeros({2}); }));
  expect("row_bounds is on meta", with([](AttentionOptions& o) {
           o.row_bounds = Tensor::zeros({2, 20, 2}, DType::i32, Device::meta());
         }));
}

TEST(AlibiSlopes, AreThoseOfThePaper) {
  const Tensor eight = alibi_slopes(8, DType::f64, Device::cpu());
  for (int h = 0; h < 8; ++h) EXPECT_DOUBLE_EQ(eight.item(h), std::pow(0.5, h + 1));
  const Tensor six = alibi_slopes(6, DType::f64, Device::cpu());
  const double expected[] = {0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125};
  for (int h = 0; h < 6; ++h) EXPECT_DOUBLE_EQ(six.item(h), expected[h]);
  EXPECT_THROW(alibi_slopes(0, DType::f64, Device::cpu()), Error);
}

}  // namespace
}  // namespace filigree
