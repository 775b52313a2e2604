// filigree bench crossover: where a pattern overtakes full attention, and what the command leaves.
#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/run_fixture.h"
#include "train/bench/crossover.h"

namespace filigree {
namespace {

SpeedAt speed(std::int64_t length, double speedup, double noise = 0.01) {
  return {length, speedup, speedup * (1 - noise), speedup * (1 + noise)};
}

TEST(CrossoverBreak, IsWhereItStaysFaster) {
  EXPECT_EQ(find_break({speed(512, 1.1), speed(1024, 1.5)}).kind, Break::Kind::always);
  EXPECT_EQ(find_break({speed(512, 0.5), speed(1024, 0.9)}).kind, Break::Kind::never);
  EXPECT_EQ(find_break({speed(512, 1.5), speed(1024, 0.9)}).kind, Break::Kind::never)
      << "faster once is not enough";
  EXPECT_EQ(find_break({}).kind, Break::Kind::never);
  // From half to twice as fast over a doubling: in the middle of the logarithms.
  const Break middle = find_break({speed(256, 2.0), speed(512, 0.5), speed(1024, 2.0), speed(2048, 4.0)});
  EXPECT_EQ(middle.kind, Break::Kind::at);
  EXPECT_NEAR(middle.length, 512 * std::sqrt(2.0), 1e-9);
}

TEST(CrossoverBreak, IsNotDrawnInsideTheNoise) {
  EXPECT_EQ(find_break({speed(512, 0.5), speed(1024, 1.05, 0.1)}).kind, Break::Kind::never);
  const Break after = find_break({speed(512, 0.98, 0.1), speed(1024, 2.0)});
  EXPECT_EQ(after.kind, Break::Kind::after) << "at 512 either may be faster";
  EXPECT_EQ(after.length, 1024);
  EXPECT_EQ(after.before, 512);
}

TEST(CrossoverBreak, NothingToGainIsNoGain) {
  Crossover result{"local", {}};
  const auto add = [&](std::int64_t n, double density, double speedup, double low) {
    const Timing timing{2 * speedup, 2, speedup, low, speedup + 0.1};
    result.points.push_back({n, 1, density, timing, std::nullopt});
  };
  add(64, 1.0, 1.2, 1.1);
  add(128, 0.5, 1.5, 0.9);
  EXPECT_EQ(break_text(result, &CrossoverPoint::attention), "not up to N = 128");
  add(256, 0.25, 3, 2);
  EXPECT_EQ(break_text(result, &CrossoverPoint::attention),
            "from N = 256 on (at 128 the difference is within the noise)");
  EXPECT_EQ(break_text(result, &CrossoverPoint::step), "not measured: out of memory");
  result.points.erase(result.points.begin(), result.points.begin() + 2);
  EXPECT_EQ(break_text(result, &CrossoverPoint::attention), "at every N from 256 on");
}

TEST_F(RunTest, CrossoverMeasuresPatternsAndSweeps) {
  write(
      "sweep.yaml",
      "base: config.yaml\naxes: {pattern: {near: {local: {window: 4}}, all: full, mixed: {heads: [{count: 1, "
      "pattern: full}, {count: 1, pattern: {local: {window: 4}}}]}}, seed: [1, 2]}\n");
  const Outcome outcome =
      run({"bench", "crossover", "sweep.yaml", "--lengths", "128,32", "--repeats", "2", "--device", "cpu"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("mixed beats full attention: alone "), std::string::npos) << outcome.output;
  const auto json = nlohmann::json::parse(slurp(path("crossover.json")));
  ASSERT_EQ(json.at("patterns").size(), 2u) << "full is what they are held against";
  const auto& points = json.at("patterns").at(0).at("points");
  ASSERT_EQ(points.size(), 2u);
  EXPECT_EQ(points.at(0).at("length"), 32);
  EXPECT_EQ(points.at(0).at("batch"), 4) << "as many tokens as at the longest";
  // Windows of 4 in tiles of 16: the diagonal and the tiles below it, 15 of 36 tiles at 8 rows.
  EXPECT_NEAR(points.at(1).at("tiles_of_full").get<double>(), 15.0 / 36, 1e-12);
  for (const char* part : {"attention", "step"}) {
    EXPECT_GT(points.at(1).at(part).at("full_ms"), 0);
    const auto& timing = points.at(1).at(part);
    EXPECT_DOUBLE_EQ(timing.at("speedup").get<double>(),
                     timing.at("full_ms").get<double>() / timing.at("sparse_ms").get<double>());
    EXPECT_LE(timing.at("speedup_quartiles").at(0), timing.at("speedup"));
    EXPECT_GE(timing.at("speedup_quartiles").at(1), timing.at("speedup"));
  }
  const std::string svg = slurp(path("crossover.svg"));
  EXPECT_TRUE(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_NE(svg.find(">near<"), std::string::npos);

  const auto expect = [&](std::vector<std::string> arguments, const std::string& part) {
    const Outcome refused = run(std::move(arguments));
    EXPECT_EQ(refused.exit_code, 2) << refused.output;
    EXPECT_NE(refused.output.find(part), std::string::npos) << refused.output;
  };
  expect({"bench", "crossover"}, "no pattern to compare");
  expect({"bench", "crossover", "--pattern", "full"}, "no pattern to compare");
  expect({"bench", "crossover", "--overwrite", "--pattern", "{local: {windo: 4}}"}, "windo");
  expect({"bench"}, "subcommand");
}

}  // namespace
}  // namespace filigree
