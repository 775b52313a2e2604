// One layout has one share of tiles, in one wording, wherever it is printed: that of full attention's tiles.
#include <nlohmann/json.hpp>

#include "attention/tile_layout.h"
#include "tests/run_fixture.h"
#include "train/ablate/fairness.h"
#include "train/ablate/sweep.h"
#include "train/report/findings.h"

namespace filigree {
namespace {

class Shares : public RunTest {
 protected:
  void expect_says(const std::vector<std::string>& command, const std::string& words) {
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_NE(outcome.output.find(words), std::string::npos) << words << "\n" << outcome.output;
  }
};

TEST_F(Shares, AreTheSameEverywhere) {
  // 6 rows of tiles: 1 + 2 * 5 of the 21 that causal attention has.
  const std::string pattern = "pattern={local: {window: 9}}", share = "52.4 % of full attention's tiles";
  expect_says({"train", "config.yaml", pattern, "data.seq_len=96", "--dry-run"},
              "layers 0-1   22 tiles, " + share);
  expect_says({"train", "config.yaml", pattern, "data.seq_len=96", "train.steps=2", "train.out=r"}, share);
  write("p.yaml",
        "tile: 16\n"
        "pattern: {local: {window: 9}}\n");
  expect_says({"explain", "p.yaml", "--n", "96", "--heads", "2", "--dump", "l.h5"}, "22 of 42, " + share);
  expect_says({"inspect", "l.h5"}, "22 tiles, " + share);
  expect_says({"explain", "r"}, "22 of 42, " + share);
  const auto json = nlohmann::json::parse(run({"explain", "p.yaml", "--n", "96", "--json"}).output);
  EXPECT_NEAR(json["groups"][0]["tiles_of_full"].get<double>(), 11.0 / 21, 1e-12);
  EXPECT_FALSE(json["groups"][0].contains("density")) << "it was a share of the whole grid";
  write("sweep.yaml",
        "base: config.yaml\naxes: {pattern: {near: {local: {window: 9}}}, data.seq_len: [96]}\n");
  const Outcome sweep = run({"ablate", "sweep.yaml", "--dry-run"});
  EXPECT_NE(sweep.output.find("tiles per layer  of full attention's tiles  fitted\n"), std::string::npos)
      << sweep.output;
  EXPECT_NE(sweep.output.find(" 22  "), std::string::npos) << sweep.output;
  EXPECT_NE(sweep.output.find(" 52.4 %  -"), std::string::npos) << sweep.output;
  expect_says({"report", "r", "-o", "page.html"}, "page.html");
  const auto results = nlohmann::json::parse(slurp(path("page.json"))).at("settings").at(0).at("results");
  EXPECT_EQ(results.at("columns").at(7), "of full attention's tiles");
  EXPECT_EQ(results.at("rows").at(0).at("cells").at(7), "52.4 %");
}

TEST_F(Shares, ABudgetHardensToItself) {
  ASSERT_EQ(run({"train", "config.yaml", "pattern=full", "data.seq_len=96", "train.steps=2", "train.out=r"})
                .exit_code,
            0);
  // 0.31 of 42 tiles are 13.
  expect_says({"harden", "r", "--layouts", "l", "--budget", "0.31", "--batches", "2"},
              "layer   0 13 tiles, 31.0 % of full attention's tiles");
  expect_says({"inspect", "l/layer_0.h5"}, "13 tiles, 31.0 % of full attention's tiles");
}

TEST_F(Shares, ASweepsBudgetIsOne) {
  const fs::path file =
      write("sweep.yaml",
            "base: config.yaml\naxes: {pattern: {near: {local: {window: fit}}}, data.seq_len: [96]}\n"
            "equal: {tiles: {budget: 0.5, tolerance: 0.1}}\n");
  const Sweep sweep = load_sweep(file);
  EXPECT_EQ(sweep.cells.at(0).fitted->target, 21);  // half of 2 * 21, not of 2 * 36
  EXPECT_EQ(tiles_per_layer(sweep.cells.at(0).config), 22);
}

TEST(ShareTexts, FollowTheirDefinition) {
  for (const bool causal : {false, true})
    for (std::int64_t rows = 1; rows < 9; ++rows)
      for (std::int64_t columns = 1; columns < 9; ++columns) {
        std::int64_t count = 0;
        for (std::int64_t q = 0; q < rows; ++q)
          for (std::int64_t k = 0; k < columns; ++k) count += !causal || k <= q;
        EXPECT_EQ(full_cells(rows, columns, causal), count) << rows << " " << columns << " " << causal;
      }
  EXPECT_EQ(percent_text(1), "100.0 %");
  EXPECT_EQ(percent_text(0.28409), "28.4 %");
  EXPECT_EQ(percent_text(0.00449), "0.45 %");
  EXPECT_EQ(percent_text(0), "0.0 %");
  EXPECT_EQ(of_full_text(3, 12), "25.0 % of full attention's tiles");
  EXPECT_EQ(of_full_text(3, 12, "pairs"), "25.0 % of full attention's pairs");
}

// A share of a longer text's tiles is no smaller work than a larger share of a shorter one's.
TEST(ShareTexts, UnlikeLengthsAreNotRanked) {
  const auto setting = [](double other_pairs) {
    Setting out;
    out.verdict = Verdict::even;
    for (const char* label : {"short", "long"}) {
      Variant v;
      v.label = label;
      v.interval.mean = out.variants.empty() ? 2.0 : 2.5;
      v.interval.n = 1;
      v.cost.tokens_per_second = 1000;
      v.cost.computed_tiles = out.variants.empty() ? 10 : 20;
      v.cost.dense_tiles = out.variants.empty() ? 20 : 100;
      v.cost.dense_pairs = out.variants.empty() ? 5000 : other_pairs;
      out.variants.push_back(v);
    }
    return out;
  };
  const auto text = [](const Setting& s) {
    Analysis analysis;
    analysis.metric = {"val_loss", "validation loss", false};
    analysis.settings = {s};
    analysis.noun = "pattern";
    return fmt::format("{}", fmt::join(findings(s, analysis), " "));
  };
  EXPECT_NE(text(setting(5000)).find("long computes the fewest, 20.0 % of full attention's tiles"),
            std::string::npos)
      << text(setting(5000));
  EXPECT_EQ(text(setting(25000)).find("fewest"), std::string::npos) << text(setting(25000));
}

}  // namespace
}  // namespace filigree
