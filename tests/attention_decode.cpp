// The cache of a decoding layer: attention of one row against the whole op, and what is kept.
#include <gtest/gtest.h>

#include "attention/connectivity.h"
#include "attention/decode_cache.h"
#include "tests/attention_cases.h"

namespace filigree::test {
namespace {

constexpr int kTiles[] = {16, 32, 64, 128};

// Row i of one sequence [1, N, heads, D] as [1, 1, heads, D], q, k and v side by side.
Tensor row_of(const Case& c, std::int64_t i, DType dtype) {
  std::vector<double> values;
  for (const Tensor* t : {&c.q, &c.k, &c.v}) {
    const std::int64_t width = t->dim(2) * t->dim(3);
    values.insert(values.end(), t->data<double>() + i * width, t->data<double>() + (i + 1) * width);
  }
  return Tensor::of({1, 1, c.q.dim(2) + 2 * c.k.dim(2), c.q.dim(3)}, values).to(dtype);
}

Case causal_case(Random& random) {
  Case c;
  const int tile = kTiles[random.range(0, 3)];
  const std::int64_t N = random.size(1, std::min(5 * tile, 2 * tile + 60)), G = random.range(1, 3);
  const std::int64_t H = G * random.range(1, 3), D = random.size(1, 70);
  const std::string text = random_pattern(random.stream(), N, static_cast<int>(H), 2);
  c.layout = std::make_shared<TileLayout>(
      build_layout(*parse_pattern(text, static_cast<int>(H)), {N, true, tile}, static_cast<int>(H)));
  c.text = fmt::format("N={} H={} G={} D={} T={} {}", N, H, G, D, tile, text);
  choose_inputs(random, c, 1, c.layout->n_heads(), G, D);
  if (random.coin()) c.gate = random_gate(random, {c.layout->gate_size()});
  if (random.coin()) c.slopes = alibi_slopes(static_cast<int>(H), DType::f64, Device::cpu());
  if (random.coin()) c.scale = 0.3 / std::sqrt(static_cast<double>(D));
  return c;
}

// All rows after a prompt of random length; the gate is per layout or per row.
void expect_rows(const Case& c, DType dtype, double tolerance, Random& random) {
  const Tensor expected = run_sparse(c, DType::f64).o;
  const std::int64_t N = c.q.dim(1), H = c.q.dim(2), G = c.k.dim(2), D = c.q.dim(3);
  DecodeCache cache(c.layout, 2, G, D, dtype);
  const std::int64_t prompt = random.range(0, N);
  if (prompt > 0) cache.begin(1, Heads::all(c.k.to(dtype)), Heads::all(c.v.to(dtype)), prompt);
  AttentionOptions options;
  options.scale = c.scale;
  if (c.slopes.defined()) options.alibi_slopes = c.slopes.to(dtype);
  if (c.gate.defined()) {
    const Tensor gate = c.gate.to(dtype);
    options.gate = Var(random.coin() ? gate : gate.reshape({1, c.layout->gate_size()}));
  }
  const std::vector<std::int64_t> sequence = {1};
  for (std::int64_t i = prompt; i < N; ++i) {
    const Tensor o = cache.attend(row_of(c, i, dtype), sequence, 0, options);
    const Tensor row = expected.reshape({N, 1, H, D}).slice(i, i + 1);
    ASSERT_LE(error_of(o, row), tolerance) << "row " << i << " after a prompt of " << prompt;
  }
  EXPECT_EQ(cache.length(0), 0);
}

TEST(DecodeCache, RowsAgreeWithTheWholeOp) {
  Random random(test_seed(), 41);
  for (int i = 0; i < 30; ++i) {
    const Case c = causal_case(random);
    SCOPED_TRACE(c.text);
    ASSERT_NO_FATAL_FAILURE(expect_rows(c, DType::f64, 1e-11, random));
    ASSERT_NO_FATAL_FAILURE(expect_rows(c, DType::f32, 1e-4, random));
  }
}

TEST(DecodeCache, TurnsRowsByTheirPositions) {
  Random random(test_seed(), 42);
  const std::int64_t N = random.range(3, 60), G = 2, H = 4, D = 2 * random.range(1, 9);
  const auto layout =
      std::make_shared<TileLayout>(build_layout(*parse_pattern("{local: {window: 20}}"), {N, true, 16}, 4));
  const Tensor qkv = random.normal({1, N, H + 2 * G, D});
  Tensor turned;
  AttentionOptions options;
  options.turned_qkv = &turned;
  const Tensor expected = sparse_attention_qkv(Var(qkv.clone()), G, layout, 100, options).value();
  EXPECT_FALSE(turned.shares_storage(qkv));
  DecodeCache cache(layout, 1, G, D, DType::f64);
  const std::int64_t prompt = random.range(1, N);
  cache.begin(0, {turned, H, G}, {turned, H + G, G}, prompt);
  const std::vector<std::int64_t> sequence = {0};
  for (std::int64_t i = prompt; i < N; ++i) {
    const Tensor row = qkv.reshape({N, 1, H + 2 * G, D}).slice(i, i + 1);
    const Tensor o = cache.attend(row, sequence, 100, {});
    ASSERT_LE(error_of(o, expected.reshape({N, 1, H, D}).slice(i, i + 1)), 1e-11) << i;
  }
}

// Whether a query head of this kv head computes the tile in this row of tiles or later.
bool seen_from(const TileLayout& layout, std::int64_t g, std::int64_t group, std::int64_t row,
               std::int64_t tile) {
  for (std::int64_t h = g * group; h < (g + 1) * group; ++h) {
    const TilePattern& p = layout.of_head(static_cast<int>(h));
    for (auto t = p.row_offsets[row]; t < p.row_offsets.back(); ++t)
      if (p.columns[t] == tile) return true;
  }
  return false;
}

// Exactly the tiles that rows to come compute.
TEST(DecodeCache, KeepsWhatCanStillBeSeen) {
  Random random(test_seed(), 43);
  for (int i = 0; i < 20; ++i) {
    const Case c = causal_case(random);
    SCOPED_TRACE(c.text);
    const std::int64_t N = c.q.dim(1), G = c.k.dim(2), D = c.q.dim(3), T = c.layout->tile();
    DecodeCache cache(c.layout, 1, G, D, DType::f64);
    const std::int64_t prompt = random.range(1, N);
    cache.begin(0, Heads::all(c.k), Heads::all(c.v), prompt);
    const std::vector<std::int64_t> sequence = {0};
    for (std::int64_t length = prompt; length <= N; ++length) {
      if (length > prompt) cache.attend(row_of(c, length - 1, DType::f64), sequence, 0, {});
      // A row of tiles is over when the next one begins.
      const std::int64_t row = length == prompt ? length / T : (length - 1) / T;
      std::int64_t tiles = 0;
      for (std::int64_t g = 0; g < G; ++g) {
        std::int64_t keys = 0;
        for (std::int64_t t = 0; t * T < length; ++t)
          if (row < c.layout->query_tiles() && seen_from(*c.layout, g, c.q.dim(2) / G, row, t)) {
            keys += std::min(T, length - t * T);
            ++tiles;
          }
        ASSERT_EQ(cache.kept_keys(0, g), keys) << "kv head " << g << " at " << length;
      }
      ASSERT_EQ(cache.bytes(), tiles * T * (D + (D + 7) / 8 * 8) * 8);
    }
  }
}

TEST(DecodeCache, AWindowKeepsItsKeysAndLittleMore) {
  Random random(test_seed(), 44);
  for (int i = 0; i < 30; ++i) {
    const int tile = kTiles[random.range(0, 3)];
    const std::int64_t N = random.range(1, 6 * tile), window = random.range(1, 3 * tile);
    const std::int64_t global = random.coin() ? 0 : random.range(1, 5);
    const std::string text = fmt::format("{{longformer: {{window: {}, global: {}}}}}", window, global);
    SCOPED_TRACE(fmt::format("N {} tile {} {}", N, tile, text));
    const auto layout = std::make_shared<TileLayout>(build_layout(*parse_pattern(text), {N, true, tile}, 1));
    DecodeCache cache(layout, 1, 1, 4, DType::f32);
    const Tensor row = random.normal({1, 1, 3, 4}, DType::f32);
    const std::vector<std::int64_t> sequence = {0};
    for (std::int64_t n = 0; n < N; ++n) {
      cache.attend(row, sequence, 0, {});
      ASSERT_LE(cache.kept_keys(0, 0), window - 1 + 2 * tile - 1 + (global > 0 ? tile : 0)) << "at " << n;
      ASSERT_GE(cache.kept_keys(0, 0), std::min(n + 1, window)) << "at " << n;
    }
  }
}

// What a row sees does not depend on how long the text may become.
TEST(DecodeCache, LeadingLayoutsAreThoseOfShorterTexts) {
  Random random(test_seed(), 45);
  for (int i = 0; i < 60; ++i) {
    const int tile = kTiles[random.range(0, 2)];
    const std::int64_t whole = random.range(1, 5 * tile),
                       n = std::min<std::int64_t>(whole, tile * random.range(1, 5));
    const std::string text = random_pattern(random.stream(), n, 3, 2);  // fits n and more
    SCOPED_TRACE(fmt::format("{} of {} tile {} {}", n, whole, tile, text));
    const PatternPtr pattern = parse_pattern(text, 3);
    const auto longer = std::make_shared<TileLayout>(build_layout(*pattern, {whole, true, tile}, 3));
    const TileLayout shorter = build_layout(*pattern, {n, true, tile}, 3);
    const LayoutPtr leading = leading_layout(longer, n);
    ASSERT_EQ(leading->n_queries(), n);
    for (int h = 0; h < 3; ++h)
      for (std::int64_t q = 0; q < n; ++q)
        for (std::int64_t k = 0; k <= q; ++k) ASSERT_EQ(leading->allows(h, q, k), shorter.allows(h, q, k));
  }
}

TEST(DecodeCache, RefusesWhatDoesNotFit) {
  const auto layout =
      std::make_shared<TileLayout>(build_layout(*parse_pattern("{full: {}}"), {20, true, 16}, 2));
  const auto error = [](const std::function<void()>& f) {
    try {
      f();
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  const auto contains = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  DecodeCache cache(layout, 1, 1, 4, DType::f32);
  const std::vector<std::int64_t> sequence = {0};
  const Tensor row = Tensor::zeros({1, 1, 4, 4});
  contains(error([&] { cache.attend(Tensor::zeros({1, 1, 3, 4}), sequence, 0, {}); }), "[1, 1, 3, 4]");
  contains(error([&] { cache.attend(row.to(DType::f64), sequence, 0, {}); }), "f64");
  AttentionOptions gated;
  gated.gate = Var(Tensor::zeros({3}));
  contains(error([&] { cache.attend(row, sequence, 0, gated); }), "[3]");
  AttentionOptions bounded;
  bounded.row_bounds = Tensor::zeros({1, 1, 2}, DType::i32);
  contains(error([&] { cache.attend(row, sequence, 0, bounded); }), "row bounds");
  for (int i = 0; i < 20; ++i) cache.attend(row, sequence, 0, {});
  contains(error([&] { cache.attend(row, sequence, 0, {}); }), "20 tokens");
  const auto bidirectional =
      std::make_shared<TileLayout>(build_layout(*parse_pattern("{full: {}}"), {20, false, 16}, 2));
  contains(error([&] { DecodeCache(bidirectional, 1, 1, 4, DType::f32); }), "causal");
  contains(error([&] { DecodeCache(layout, 1, 3, 4, DType::f32); }), "3 kv heads");
}

}  // namespace
}  // namespace filigree::test
