// Decoding with the cache against the ordinary forward over the whole text.
#include <gtest/gtest.h>

#include <filesystem>

#include "layers/decoder_cache.h"
#include "tests/layers_models.h"
#include "tests/random_patterns.h"
#include "tests/temporary_folder.h"

namespace filigree {
namespace {

// Greatest difference over the greatest logit.
double relative_difference(const Tensor& a, const Tensor& b) {
  double scale = 0;
  for (std::int64_t i = 0; i < b.numel(); ++i) scale = std::max(scale, std::abs(b.item(i)));
  return max_difference(a, b) / scale;
}

ModelConfig random_model(Random& random) {
  ModelConfig c;
  constexpr Positions kPositions[] = {Positions::learned, Positions::rope, Positions::alibi, Positions::none};
  c.positions = kPositions[random.range(0, 3)];
  c.n_kv_heads = static_cast<int>(random.range(1, 3));
  c.n_heads = c.n_kv_heads * static_cast<int>(random.range(1, 2));
  c.head_dim = c.positions == Positions::rope ? 2 * random.range(1, 10) : random.range(1, 21);
  c.dim = random.range(4, 24);
  c.n_layers = static_cast<int>(random.range(1, 3));
  c.ffn_dim = random.range(4, 30);
  c.vocab_size = 11;
  c.max_seq_len = 400;
  c.norm = random.coin() ? NormKind::layer_norm : NormKind::rms_norm;
  c.activation = random.coin() ? Activation::swiglu : Activation::gelu_tanh;
  c.bias = random.coin();
  c.tied_embeddings = random.coin();
  return c;
}

// Several texts, decoded together from prompts of different lengths, some taking turns.
void expect_agreement(const ModelConfig& config, const LayerPatternsPtr& patterns, DType dtype,
                      double tolerance, Random& random) {
  Transformer model = make_model(config, 1, patterns, dtype);
  randomize(model, random, 0.2);
  const std::int64_t n = patterns->training().n, texts = random.range(1, 3);
  const Tensor tokens = random.integers({texts, n}, 0, config.vocab_size - 1);
  const NoGrad no_tape;
  const Tensor expected = model.logits({tokens, {}, {}}, {}).value();
  const auto row = [&](std::int64_t s, std::int64_t i) {
    return expected.reshape({texts * n, 1, config.vocab_size}).slice(s * n + i, s * n + i + 1);
  };
  DecoderCache cache(model, n, texts);
  std::vector<std::int64_t> length;
  for (std::int64_t s = 0; s < texts; ++s) {
    length.push_back(random.size(1, n));
    const Tensor prompt = tokens.slice(s, s + 1).reshape({n, 1}).slice(0, length.back());
    const Tensor logits = model.begin_text(prompt.reshape({length.back()}), s, cache);
    EXPECT_LE(relative_difference(logits.reshape({1, 1, config.vocab_size}), row(s, length.back() - 1)),
              tolerance)
        << "prompt of " << length.back();
  }
  for (;;) {
    std::vector<std::int64_t> going;
    for (std::int64_t s = 0; s < texts; ++s)
      if (length[s] < n && (texts == 1 || random.range(0, 5) > 0)) going.push_back(s);
    if (std::ranges::all_of(length, [&](auto l) { return l == n; })) break;
    if (going.empty()) continue;
    std::vector<std::int32_t> next;
    for (const auto s : going) next.push_back(tokens.data<std::int32_t>()[s * n + length[s]]);
    const Tensor logits = model.next_token(Tensor::of({std::ssize(going)}, next), going, cache);
    for (std::size_t r = 0; r < going.size(); ++r) {
      const auto i = static_cast<std::int64_t>(r);
      const Tensor one = logits.slice(i, i + 1).reshape({1, 1, config.vocab_size});
      ASSERT_LE(relative_difference(one, row(going[r], length[going[r]])), tolerance)
          << "text " << going[r] << " at " << length[going[r]];
      ++length[going[r]];
    }
  }
}

LayerPatternsPtr random_patterns(Random& random, const ModelConfig& c, std::int64_t n, int tile) {
  std::vector<PatternPtr> patterns;
  for (int layer = 0; layer < c.n_layers; ++layer)
    patterns.push_back(test::parse_pattern(
        test::random_pattern(random.stream(), n, c.n_heads, static_cast<int>(random.range(0, 2))),
        c.n_heads));
  return std::make_shared<const LayerPatterns>(std::move(patterns), Geometry{n, true, tile}, c.n_heads);
}

void expect_random_agreement(DType dtype, double tolerance) {
  Random random(test_seed(), 31);
  for (int i = 0; i < 12; ++i) {
    const ModelConfig config = random_model(random);
    constexpr int kTiles[] = {16, 32, 64, 128};
    const int tile = kTiles[random.range(0, 3)];
    const std::int64_t n = random.size(1, std::min(5 * tile, 2 * tile + 70));
    const auto patterns = random_patterns(random, config, n, tile);
    SCOPED_TRACE(fmt::format("case {}: n {} tile {} heads {} kv {} dim {} positions {}", i, n, tile,
                             config.n_heads, config.n_kv_heads, config.head_dim,
                             static_cast<int>(config.positions)));
    expect_agreement(config, patterns, dtype, tolerance, random);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Decode, AgreesWithTheWholeForwardInF64) {
  expect_random_agreement(DType::f64, 1e-10);
}

TEST(Decode, AgreesWithTheWholeForwardInF32) {
  expect_random_agreement(DType::f32, 1e-4);
}

// Every pattern by name, those that fit one length only among them.
TEST(Decode, AgreesForEveryPatternOfTheRegistry) {
  Random random(test_seed(), 32);
  const TemporaryFolder folder;
  const std::string file = (folder / "layout.h5").string();
  constexpr std::int64_t kN = 75;
  ModelConfig config = small_config();
  config.max_seq_len = kN;
  save_layout(*make_layout("{bigbird: {block: 8, random: 1, per_head: true}}", kN, config.n_heads, true),
              file, false);
  const std::vector<std::pair<std::string, std::string>> patterns = {
      {"full", "{full: {}}"},
      {"local", "{local: {window: 9}}"},
      {"local", "{local: {window: 5, dilation: 7}}"},
      {"global", "{global: {positions: [3, 40]}}"},
      {"longformer", "{longformer: {window: 9, global: 2}}"},
      {"strided", "{strided: {stride: 10}}"},
      {"fixed", "{fixed: {stride: 12, summary: 2}}"},
      {"random", "{random: {keys: 4, per_head: true}}"},
      {"random_blocks", "{random_blocks: {block: 8, blocks: 2}}"},
      {"bigbird", "{bigbird: {block: 8, window: 1, global: 1, random: 1}}"},
      {"block", "{block: {size: 25, pairs: [[0, 0], [2, 0], [2, 2]]}}"},
      {"block", fmt::format("{{block: {{file: {}}}}}", file)},
      {"union", "{union: [{local: {window: 3}}, {strided: {stride: 20}}]}"},
      {"intersect", "{intersect: [{local: {window: 30}}, {strided: {stride: 2}}]}"},
      {"minus", "{minus: [{full: {}}, {local: {window: 20}}]}"},
      {"heads", "{heads: [{count: 1, pattern: {local: {window: 4}}}, {count: 2, pattern: {full: {}}}]}"},
      {"layers",
       "{layers: [{layers: 0-1, pattern: {local: {window: 4}}}, {layers: 1, pattern: {strided: {stride: "
       "9}}}]}"}};
  std::vector<std::string> named;
  for (const auto& [name, text] : patterns) {
    SCOPED_TRACE(text);
    named.push_back(name);
    expect_agreement(config, make_patterns(config, kN, text), DType::f64, 1e-10, random);
  }
  for (const std::string& name : pattern_names())
    EXPECT_TRUE(name == "learned_layout" || name == "learned_span" || name == "block_topk" ||
                std::ranges::count(named, name))
        << "no case for the pattern " << name;
}

// Learned patterns: while their gates are soft, when they are hardened, and routed by the text.
TEST(Decode, AgreesForLearnedPatterns) {
  Random random(test_seed(), 34);
  const std::int64_t n = 90;
  for (const char* text :
       {"{learned_layout: {budget: 0.7}}", "{learned_span: {budget: 0.7}}",
        "{heads: [{count: 1, pattern: {local: {window: 9}}}, {count: 2, pattern: "
        "{learned_layout: {budget: 0.8}}}]}",
        "{block_topk: {topk: 2, sinks: 1, dim: 3, parts: 4}}",
        "{layers: [{layers: 0-1, pattern: full}, {layers: 0, pattern: {block_topk: {topk: 1, sinks: 0}}}]}"})
    for (const double progress : {0.05, 0.5, 0.9}) {
      ModelConfig config = small_config();
      config.max_seq_len = n;
      Transformer model = make_model(config, 1, make_patterns(config, n, text), DType::f64);
      randomize(model, random, 0.2);
      model.visit([&](Parameter& p) {
        if (p.name.ends_with("log_alpha"))
          for (std::int64_t i = 0; i < p.var.numel(); ++i)
            p.var.value().data<double>()[i] += random.coin() ? 0 : -4;
        if (p.name.ends_with("span"))
          for (std::int64_t i = 0; i < p.var.numel(); ++i)
            p.var.value().data<double>()[i] = random.stream().uniform();
      });
      model.advance({0, progress, 1});
      const NoGrad no_tape;
      const Tensor tokens = random.integers({1, n}, 0, config.vocab_size - 1);
      const Tensor expected = model.logits({tokens, {}, {}}, {}).value().reshape({n, config.vocab_size});
      DecoderCache cache(model, n, 1);
      const std::int64_t prompt = random.size(1, n - 1);
      const std::int64_t one[] = {0};
      Tensor logits = model.begin_text(tokens.reshape({n, 1}).slice(0, prompt).reshape({prompt}), 0, cache);
      for (std::int64_t i = prompt;; ++i) {
        ASSERT_LE(relative_difference(logits.reshape({1, config.vocab_size}), expected.slice(i - 1, i)),
                  1e-10)
            << text << " at " << progress << ", token " << i;
        if (i == n) break;
        logits = model.next_token(tokens.reshape({n, 1}).slice(i, i + 1).reshape({1}), one, cache);
      }
    }
}

// Logits of a text are bit for bit the same alone and beside others.
TEST(Decode, TextsDoNotTouchEachOther) {
  Random random(test_seed(), 33);
  const ModelConfig config = small_config();
  Transformer model =
      make_model(config, 3, make_patterns(config, 40, "{longformer: {window: 5, global: 1}}"));
  randomize(model, random, 0.3);
  const Tensor prompt = random.integers({7}, 0, 10);
  DecoderCache alone(model, 40, 1), together(model, 40, 4);
  for (const std::int64_t s : {0, 1, 3}) model.begin_text(random.integers({s + 3}, 0, 10), s, together);
  const Tensor a = model.begin_text(prompt, 0, alone), b = model.begin_text(prompt, 2, together);
  EXPECT_TRUE(same_bits(a, b));
  for (std::int32_t token = 0; token < 9; ++token) {
    const std::vector<std::int64_t> one = {0}, all = {3, 2, 0, 1};
    const Tensor x = model.next_token(Tensor::of({1}, std::vector<std::int32_t>{token}), one, alone);
    const Tensor y =
        model.next_token(Tensor::of({4}, std::vector<std::int32_t>{1, token, 2, 3}), all, together);
    ASSERT_TRUE(same_bits(x, y.slice(1, 2))) << token;
  }
}

TEST(Decode, RefusesWhatDoesNotFit) {
  const ModelConfig config = small_config();
  const Transformer model = make_model(config, 3, make_patterns(config, 20));
  DecoderCache cache(model, 20, 1);
  const auto error = [](const std::function<void()>& f) { return error_text(ErrorKind::usage, f); };
  const auto contains = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  const std::vector<std::int64_t> first = {0};
  const Tensor token = Tensor::zeros({1}, DType::i32);
  contains(error([&] { model.begin_text(Tensor::zeros({21}, DType::i32), 0, cache); }), "21 tokens");
  model.begin_text(Tensor::zeros({20}, DType::i32), 0, cache);
  contains(error([&] { model.next_token(token, first, cache); }), "20 tokens");
  contains(error([&] { DecoderCache(model, 41, 1); }), "max_seq_len 40");
  ModelConfig encoder = config;
  encoder.type = ModelType::encoder_mlm;
  contains(error([&] { DecoderCache(make_model(encoder, 3, make_patterns(encoder, 20)), 20, 1); }),
           "only a decoder");
}

}  // namespace
}  // namespace filigree
