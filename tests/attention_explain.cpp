// Explain: figures against formulas and brute force, pictures against counting, files against their formats.
#include <gtest/gtest.h>
#include <zlib.h>

#include <nlohmann/json.hpp>
#include <random>

#include "attention/explain/explain.h"
#include "attention/explain/picture.h"
#include "attention/explain/sheet.h"
#include "tests/random_patterns.h"
#include "tests/temporary_folder.h"

namespace filigree {
namespace {

using nlohmann::json;

Explanation explain_yaml(const std::string& yaml, Geometry g, int n_layers = 1, int n_heads = 1) {
  ExplainRequest request;
  for (int l = 0; l < n_layers; ++l)
    request.layers.push_back(test::parse_pattern(yaml, n_heads, l, n_layers));
  request.geometry = g;
  request.n_heads = n_heads;
  return explain(request);
}

// --- the seed table ---

TEST(Explain, SeedTable) {
  const auto rows = seed_table();
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].formula_pairs, 16777216);
  EXPECT_EQ(rows[0].bidirectional_pairs, 16777216);
  EXPECT_EQ(rows[0].causal_pairs, 4096 * 4097 / 2);
  EXPECT_EQ(rows[0].tiles_64, 64 * 65 / 2);
  EXPECT_EQ(rows[0].tiles_128, 32 * 33 / 2);
  EXPECT_EQ(rows[1].formula_pairs, 262144);
  EXPECT_EQ(rows[1].causal_pairs, 262144 - 64 * 63 / 2);        // the first rows have fewer keys
  EXPECT_EQ(rows[1].bidirectional_pairs, 4096 * 65 - 32 * 33);  // 32 keys a side and itself, less the ends
  EXPECT_EQ(rows[1].tiles_64, 64 + 63);
  EXPECT_EQ(rows[1].tiles_128, 32 + 31);
  // BigBird, causal, block row r has the least of r + 1 and window 2 (own and previous) + global 2 + random 3
  // blocks; its own block is half. Bidirectional: 2 full global rows; of the others each has 2 + 3 + 3
  // blocks, except rows 2 (window overlaps the globals by one) and 63 (window ends).
  const std::int64_t block = 64 * 64, half = 64 * 65 / 2;
  std::int64_t causal = 0;
  for (std::int64_t r = 0; r < 64; ++r) causal += (std::min<std::int64_t>(r + 1, 7) - 1) * block + half;
  EXPECT_EQ(rows[2].causal_pairs, causal);
  EXPECT_EQ(rows[2].bidirectional_pairs, block * (2 * 64 + 62 * 8 - 2));
  EXPECT_EQ(rows[2].formula_pairs, 2097152);
}

TEST(Explain, SeedTableIsPrintedWithIdealAndTileFactors) {
  const std::string text = savings_text();
  for (const char* part : {"16,777,216", "262,144", "260,128 (32.3x)", "127 (16.4x)", "63 (8.4x)"})
    EXPECT_NE(text.find(part), std::string::npos) << part;
}

// --- cost ---

TEST(Explain, CostFollowsTheFormulas) {
  ExplainRequest request;
  request.layers = {test::parse_pattern("{local: {window: 64}}", 4)};
  request.geometry = {4096, true, 64};
  request.n_heads = 4;
  request.n_kv_heads = 2;
  request.head_dim = 32;
  const auto e = explain(request);
  const auto& cost = e.groups[0].cost;
  const double pairs = 4 * 260128.0, tiles = 4 * 127.0, q = 4096.0 * 4 * 32, kv = 4096.0 * 2 * 32,
               lse = 4096.0 * 4;
  EXPECT_EQ(cost.useful_forward, 4 * 32 * pairs);
  EXPECT_EQ(cost.useful_backward, 10 * 32 * pairs);
  EXPECT_EQ(cost.computed_forward, 4 * 32 * 64 * 64 * tiles);
  EXPECT_EQ(cost.computed_backward, 10 * 32 * 64 * 64 * tiles);
  EXPECT_EQ(cost.least_bytes_forward, 4 * (2 * q + 2 * kv + lse));
  EXPECT_EQ(cost.least_bytes_backward, 4 * (4 * q + 4 * kv + lse));
  EXPECT_EQ(cost.tile_bytes_forward, 4 * (2 * q + lse + tiles * 2 * 64 * 32));
  EXPECT_EQ(cost.tile_bytes_backward, 4 * (4 * q + 4 * kv + lse + tiles * 4 * 64 * 32));
}

TEST(Explain, EqualLayersShareAGroup) {
  const std::string text =
      "{layers: [{layers: 0-4, pattern: {local: {window: 8}}}, {layers: [1, 3], pattern: {full: {}}}]}";
  const auto e = explain_yaml(text, {100, true, 16}, 5);
  ASSERT_EQ(e.groups.size(), 2u);
  EXPECT_EQ(e.groups[0].layers, (std::vector<int>{0, 2, 4}));
  EXPECT_EQ(e.groups[1].layers, (std::vector<int>{1, 3}));
}

// --- reach ---

// Walks the graph edge by edge.
std::vector<std::vector<bool>> walked(const Explanation& e, int n_layers) {
  const auto n = e.request.geometry.n;
  std::vector<std::vector<bool>> reached(n, std::vector<bool>(n, false));
  for (std::int64_t i = 0; i < n; ++i) reached[i][i] = true;
  for (int l = 0; l < n_layers; ++l) {
    auto next = reached;
    for (const auto& group : e.groups) {
      if (std::find(group.layers.begin(), group.layers.end(), l) == group.layers.end()) continue;
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t k = 0; k < n; ++k)
          for (int h = 0; h < e.request.n_heads; ++h)
            if (group.layout->allows(h, i, k))
              for (std::int64_t j = 0; j < n; ++j)
                if (reached[k][j]) next[i][j] = true;
    }
    reached = next;
  }
  return reached;
}

TEST(Explain, ReachAgreesWithWalkingTheGraph) {
  const auto seed = std::random_device{}();
  RandomStream random(seed);
  for (int c = 0; c < 60; ++c) {
    const auto n = random.range(1, 40);
    const int n_layers = static_cast<int>(random.range(1, 4)), n_heads = static_cast<int>(random.range(1, 3));
    std::string text = test::random_pattern(random, n, n_heads, 1);
    if (n_layers > 1)
      text = fmt::format("{{layers: [{{layers: 0-{}, pattern: {}}}, {{layers: 0, pattern: {}}}]}}",
                         n_layers - 1, text, test::random_pattern(random, n, n_heads, 1));
    const bool causal = random.range(0, 1) == 1;
    SCOPED_TRACE(fmt::format("seed {}: {} n={} causal={}", seed, text, n, causal));
    const auto e = explain_yaml(text, {n, causal, 16}, n_layers, n_heads);
    ASSERT_EQ(e.reach.cell, 1);
    ASSERT_EQ(e.reach.after.size(), static_cast<std::size_t>(n_layers));
    for (int l = 1; l <= n_layers; ++l) {
      const auto reached = walked(e, l);
      FieldAfter expected;
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < (causal ? i + 1 : n); ++j) expected.unconnected += !reached[i][j];
      for (std::int64_t j = n - 1; j >= 0; --j) {
        if (!reached[n - 1][j]) continue;
        ++expected.tokens;
        expected.farthest = n - 1 - j;
      }
      const auto& found = e.reach.after[l - 1];
      ASSERT_EQ(found.unconnected, expected.unconnected) << "after " << l;
      ASSERT_EQ(found.tokens, expected.tokens) << "after " << l;
      ASSERT_EQ(found.farthest, expected.farthest) << "after " << l;
      if (l < n_layers) continue;
      ASSERT_EQ(e.reach.example.has_value(), expected.unconnected > 0);
      if (e.reach.example) {
        const auto [i, j] = *e.reach.example;
        ASSERT_TRUE(!reached[i][j] && (!causal || j <= i));
      }
    }
  }
}

TEST(Explain, WindowReachGrowsByAWindowPerLayer) {
  const auto e = explain_yaml("{local: {window: 100}}", {4096, true, 64}, 5);
  for (int l = 1; l <= 5; ++l) EXPECT_EQ(e.reach.after[l - 1].farthest, l * 99);
}

TEST(Explain, LongReachIsBoundedByTiles) {
  const std::int64_t n = 10000;  // ragged: 156 tiles and 16 tokens
  const auto e = explain_yaml("{local: {window: 100}}", {n, true, 64}, 3);
  EXPECT_EQ(e.reach.cell, 64);
  for (int l = 1; l <= 3; ++l) {
    const auto& after = e.reach.after[l - 1];
    const std::int64_t exact_back = l * 99, span = exact_back + 1;
    EXPECT_GE(after.farthest, exact_back);
    EXPECT_LE(after.farthest, exact_back + (l + 1) * 64);
    EXPECT_EQ(after.tokens, after.farthest + 1);
    const std::int64_t connected = n * span - span * (span - 1) / 2;
    EXPECT_LE(after.unconnected, n * (n + 1) / 2 - connected);
    EXPECT_GT(after.unconnected, n * (n + 1) / 2 - 2 * connected);
  }
  EXPECT_NE(explanation_text(e).find("by blocks of 64 tokens"), std::string::npos);
}

// --- pictures ---

TEST(ExplainPicture, DensityIsTheShareOfAllowedPairs) {
  const auto seed = std::random_device{}();
  RandomStream random(seed);
  for (int c = 0; c < 60; ++c) {
    const auto n = random.range(1, 150);
    const int size = static_cast<int>(random.range(1, 40)), tile = 16 << random.range(0, 3);
    const bool causal = random.range(0, 1) == 1;
    const std::string text = test::random_pattern(random, n, 1, 2);
    SCOPED_TRACE(fmt::format("seed {}: {} n={} size={} causal={}", seed, text, n, size, causal));
    const auto layout = build_layout(*test::parse_pattern(text), {n, causal, tile}, 1);
    const auto grid = density_grid(layout, 0, size);
    ASSERT_EQ(grid.size, std::min<std::int64_t>(size, n));
    std::vector<double> allowed(grid.values.size(), 0), all(grid.values.size(), 0);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < (causal ? i + 1 : n); ++j) {
        const auto pixel = static_cast<std::size_t>(i * grid.size / n * grid.size + j * grid.size / n);
        all[pixel] += 1;
        allowed[pixel] += layout.allows(0, i, j);
      }
    }
    for (std::size_t p = 0; p < all.size(); ++p)
      ASSERT_FLOAT_EQ(grid.values[p],
                      all[p] == 0 ? kBeyondCausality : static_cast<float>(allowed[p] / all[p]));
  }
}

TEST(ExplainPicture, TerminalShowsTheCausalTriangle) {
  const auto text = terminal_pictures(explain_yaml("{local: {window: 1}}", {8, true, 16}));
  // 8 tokens are drawn with 16 dots each: whole characters of 4 x 8.
  std::string expected = "layer 0, head 0\n";
  for (int line = 0; line < 32; ++line) {
    for (int token = 0; token < line / 4; ++token)
      for (int k = 0; k < 8; ++k) expected += "·";
    for (int k = 0; k < 8; ++k) expected += "⣿";
    expected += "\n";
  }
  EXPECT_EQ(text, expected + "\n");
}

TEST(ExplainPicture, ManyPicturesAreCutInTheTerminalAndSaySo) {
  const auto e = explain_yaml("{random: {keys: 3, per_head: true}}", {64, true, 16}, 1, 20);
  EXPECT_EQ(picture_panels(e).size(), 20u);
  EXPECT_NE(terminal_pictures(e).find("12 of 20 pictures"), std::string::npos);
}

TEST(ExplainPicture, TitlesNameLayersAndHeads) {
  EXPECT_EQ(numbered("head", {3}), "head 3");
  EXPECT_EQ(numbered("layer", {0, 1, 2, 4, 6, 7}), "layers 0-2, 4, 6-7");
}

class ExplainFiles : public testing::Test {
 protected:
  std::string path(const char* name) const { return (folder_ / name).string(); }
  TemporaryFolder folder_;
};

std::uint32_t big_endian(const std::string& bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t k = 0; k < 4; ++k) value = value << 8 | static_cast<unsigned char>(bytes.at(at + k));
  return value;
}

TEST_F(ExplainFiles, PngDecodes) {
  const auto e =
      explain_yaml("{heads: [{count: 1, pattern: {full: {}}}, {count: 1, pattern: {local: {window: 1}}}]}",
                   {256, true, 64}, 1, 2);
  write_explanation_png(e, path("a.png"));
  const std::string png = slurp(path("a.png"));
  ASSERT_EQ(png.substr(0, 8), "\x89PNG\r\n\x1a\n");
  std::string packed;
  std::size_t at = 8;
  std::uint32_t width = 0, height = 0;
  while (at < png.size()) {
    const auto length = big_endian(png, at);
    const std::string type = png.substr(at + 4, 4);
    const std::string body = png.substr(at + 4, length + 4);
    ASSERT_EQ(big_endian(png, at + 8 + length),
              crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size())));
    if (type == "IHDR") width = big_endian(png, at + 8), height = big_endian(png, at + 12);
    if (type == "IDAT") packed += png.substr(at + 8, length);
    at += 12 + length;
  }
  ASSERT_EQ(png.substr(png.size() - 8, 4), "IEND");
  std::string raw(static_cast<std::size_t>(height) * (width * 3 + 1), '\0');
  uLongf size = raw.size();
  ASSERT_EQ(uncompress(reinterpret_cast<Bytef*>(raw.data()), &size,
                       reinterpret_cast<const Bytef*>(packed.data()), packed.size()),
            Z_OK);
  ASSERT_EQ(size, raw.size());
  const Sheet sheet(2);
  ASSERT_EQ(width, 2u * sheet.width());  // two pixels a unit
  ASSERT_EQ(height, 2u * sheet.height());
  const auto pixel = [&](int x, int y) {
    return raw.substr(static_cast<std::size_t>(y) * (width * 3 + 1) + 1 + static_cast<std::size_t>(x) * 3, 3);
  };
  const auto bytes = [](Rgb c) {
    return std::string{static_cast<char>(c.red), static_cast<char>(c.green), static_cast<char>(c.blue)};
  };
  const auto of_pair = [&](std::size_t panel, int query, int key) {  // the middle of the pair
    const int x = (2 * key + 1) * Sheet::kSide / 256, y = (2 * query + 1) * Sheet::kSide / 256;
    return pixel(2 * sheet.left(panel) + x, 2 * sheet.top(panel) + y);
  };
  EXPECT_EQ(of_pair(0, 100, 50), bytes(kNeeded));      // full: allowed
  EXPECT_EQ(of_pair(0, 20, 40), bytes(kComputed));     // beyond causality, but in a tile of the diagonal
  EXPECT_EQ(of_pair(0, 50, 100), bytes(kBackground));  // beyond causality
  EXPECT_EQ(of_pair(1, 50, 50), bytes(kNeeded));       // window of 1: the diagonal
  EXPECT_EQ(of_pair(1, 50, 30), bytes(kComputed));     // its tile computes more
  EXPECT_EQ(of_pair(1, 200, 30), bytes(kAbsent));      // and nothing else
  const std::string line =                             // of the grid, where the second tile begins
      pixel(2 * sheet.left(1) + 2 * Sheet::kSide / 4, 2 * sheet.top(1) + 500);
  EXPECT_TRUE(line != bytes(kAbsent) && line != bytes(kNeeded) && line != bytes(kComputed));
  EXPECT_EQ(pixel(2 * sheet.left(1) - 1, 2 * sheet.top(1) + 7), bytes(kFrame));
  // A tick at the last token, its number and the name of the axis below.
  const int below = 2 * (sheet.top(0) + Sheet::kSide);
  EXPECT_EQ(pixel(2 * (sheet.left(0) + Sheet::kSide), below + 2), bytes(kFrame));
  bool ink = false;
  for (int y = below + 2 * Sheet::kTick; y < below + 2 * (Sheet::kTick + 2 * Sheet::kLine); ++y)
    for (int x = 2 * sheet.left(0) + 250; x < 2 * sheet.left(0) + 390; ++x)
      ink = ink || pixel(x, y) == bytes(kInk);
  EXPECT_TRUE(ink) << "key (token)";
}

TEST(ExplainPicture, TicksAndGridStayApart) {
  EXPECT_EQ(axis_ticks(4096), (std::vector<std::int64_t>{0, 1024, 2048, 3072, 4096}));
  EXPECT_EQ(axis_ticks(5000), (std::vector<std::int64_t>{0, 1024, 2048, 3072, 4096, 5000}));
  EXPECT_EQ(axis_ticks(1), (std::vector<std::int64_t>{0, 1}));
  for (std::int64_t n = 1; n < 3'000'000; n = n * 5 / 4 + 1) {
    const auto ticks = axis_ticks(n);
    EXPECT_EQ(ticks.front(), 0);
    EXPECT_EQ(ticks.back(), n);
    for (std::size_t k = 1; k < ticks.size(); ++k) {  // numbers do not lie over each other
      const double apart =
          static_cast<double>(ticks[k] - ticks[k - 1]) / static_cast<double>(n) * Sheet::kSide;
      const auto letters = static_cast<double>(grouped(ticks[k]).size() + grouped(ticks[k - 1]).size());
      EXPECT_GE(apart, letters / 2 * Sheet::kCharacter) << n << " at " << ticks[k];
    }
  }
  EXPECT_EQ(grid_step(build_layout(*test::parse_pattern("{local: {window: 8}}"), {2048, true, 64}, 1)), 64);
  EXPECT_EQ(grid_step(build_layout(*test::parse_pattern("{local: {window: 8}}"), {32768, true, 64}, 1)), 512);
}

TEST_F(ExplainFiles, SvgIsVectorsInTokens) {
  write_explanation_svg(explain_yaml("{full: {}}", {40, true, 16}), path("a.svg"));
  const std::string svg = slurp(path("a.svg"));
  EXPECT_EQ(svg.find("<svg xmlns="), 0u);
  EXPECT_EQ(svg.find("<image"), std::string::npos);
  for (const char* words :
       {">layer 0, head 0</text>", ">6 tiles, 100.0 % of full attention's tiles</text>",
        ">key (token)</text>", ">query (token)</text>", ">40</text>", ">needed</text>",
        ">computed, not needed</text>", ">not computed</text>", ">grid: tiles of 16 x 16 tokens</text>"})
    EXPECT_NE(svg.find(words), std::string::npos) << words << "\n" << svg;
  // Tokens, whatever the size: the triangle's mask row by row, used twice; full tiles by rows; the ragged
  // end.
  EXPECT_NE(svg.find("d=\"M0 0h1v1h-1zM0 1h2v1h-2zM0 2h3v1h-3z"), std::string::npos) << svg;
  EXPECT_NE(svg.find("<use href=\"#l0m0\" x=\"16\" y=\"16\"/>"), std::string::npos) << svg;
  EXPECT_NE(svg.find("d=\"M0 16h16v16h-16zM0 32h32v8h-32z\""), std::string::npos) << svg;
  EXPECT_NE(svg.find("d=\"M0 0h16v16h-16zM16 16h16v16h-16zM32 32h8v8h-8z\""), std::string::npos) << svg;
  EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
}

TEST_F(ExplainFiles, SvgStaysSmallWhereEveryMaskDiffers) {
  write_explanation_svg(explain_yaml("{random: {keys: 64}}", {8192, true, 64}), path("a.svg"));
  const std::string svg = slurp(path("a.svg"));
  EXPECT_EQ(svg.find("<use"), std::string::npos);
  EXPECT_NE(svg.find("fill-opacity"), std::string::npos);
  EXPECT_LT(svg.size(), 1u << 20);
}

TEST_F(ExplainFiles, UnwritableTargetsAreNamed) {
  const auto e = explain_yaml("{full: {}}", {16, true, 16});
  for (const auto& write : {write_explanation_png, write_explanation_svg}) {
    try {
      write(e, path("missing/a"));
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::disk);
      EXPECT_NE(std::string(error.what()).find("missing/a"), std::string::npos);
    }
  }
}

// --- reports ---

TEST(ExplainReport, JsonHoldsTheFigures) {
  const auto e = explain_yaml(
      "{layers: [{layers: 0-1, pattern: {local: {window: 64}}}, {layers: 2, pattern: {full: {}}}]}",
      {4096, true, 64}, 3, 2);
  const auto j = json::parse(explanation_json(e));
  EXPECT_EQ(j["n"], 4096);
  EXPECT_EQ(j["causal"], true);
  ASSERT_EQ(j["groups"].size(), 2u);
  EXPECT_EQ(j["groups"][0]["layers"], (json{0, 1}));
  EXPECT_EQ(j["groups"][0]["exact_pairs"], 2 * 260128);
  EXPECT_EQ(j["groups"][0]["computed_tiles"], 2 * 127);
  EXPECT_EQ(j["groups"][0]["head_pattern"], (json{0, 0}));
  EXPECT_EQ(j["total"]["exact_pairs"], 2 * 2 * 260128 + 2 * 8390656);
  EXPECT_EQ(j["total"]["flops_forward_useful"], 4.0 * 64 * (2 * 2 * 260128 + 2 * 8390656));
  EXPECT_EQ(j["dense_pairs"], 2 * 8390656);
  EXPECT_EQ(j["reach"]["exact"], true);
  EXPECT_EQ(j["reach"]["after"][0]["tokens_back"], 63);
  EXPECT_EQ(j["reach"]["after"][2]["unconnected_pairs"], 0);
  EXPECT_FALSE(j["reach"].contains("unconnected_example"));
  EXPECT_EQ(j["seed_table"][0]["formula_pairs"], 16777216);
}

TEST(ExplainReport, TextExplainsEveryPattern) {
  const auto text = explanation_text(explain_yaml("{minus: [{full: {}}, {full: {}}]}", {50, false, 16}, 2));
  for (const auto& name : pattern_names())
    EXPECT_NE(pattern_rules_text().find("\n  " + name + " "), std::string::npos) << name;
  EXPECT_EQ(text.find("what query i may see"), std::string::npos) << "only what was asked";
  EXPECT_EQ(text.find("reference"), std::string::npos);
  EXPECT_NE(text.find("exact pairs         0 of 2,500, 0.0 % of full attention's pairs\n"), std::string::npos)
      << text;
  EXPECT_NE(text.find("nothing carries key 1 to query 0"), std::string::npos) << text;
}

TEST(ExplainReport, RefusesNonsense) {
  ExplainRequest request;
  request.geometry = {64, true, 64};
  EXPECT_THROW(explain(request), Error);
  request.layers = {test::parse_pattern("{full: {}}")};
  request.head_dim = 0;
  EXPECT_THROW(explain(request), Error);
}

}  // namespace
}  // namespace filigree
