// Sweeps: what a file means, what is held equal, and whole sweeps of the binary that are killed, damaged and
// changed.
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/gradcheck.h"
#include "tests/run_fixture.h"
#include "train/ablate/budget.h"
#include "train/ablate/child.h"
#include "train/ablate/fairness.h"
#include "train/ablate/sweep.h"
#include "train/config/layouts.h"
#include "train/record/loaded_model.h"
#include "train/report/figures.h"

namespace filigree {
namespace {

constexpr const char* kBase =
    "base:\n  tile: 16\n  model: {dim: 32, n_layers: 2, n_heads: 2}\n  data: {train: [text], seq_len: 128}\n"
    "  train: {steps: 10, batch_size: 4, lr: 1e-2}\n";

class SweepFile : public testing::Test {
 protected:
  Sweep load(const std::string& text, const std::vector<std::string>& overrides = {}) {
    spill(folder_ / "sweep.yaml", kBase + text);
    return load_sweep(folder_ / "sweep.yaml", overrides);
  }
  std::string refusal(const std::string& text, const std::vector<std::string>& overrides = {}) {
    return error_text(ErrorKind::usage, [&] { load(text, overrides); });
  }
  static std::vector<std::string> names(const Sweep& sweep) {
    std::vector<std::string> out;
    for (const Cell& cell : sweep.cells) out.push_back(cell.name);
    return out;
  }

  TemporaryFolder folder_;
};

TEST_F(SweepFile, AGridHasEveryCombination) {
  const Sweep sweep = load(
      "axes:\n  pattern: {near: {local: {window: 8}}, all: full}\n  train.lr: [1e-2, 1e-3]\n  seed: [3, "
      "4]\n");
  EXPECT_EQ(names(sweep),
            (std::vector<std::string>{"near_lr-1e-2_seed-3", "near_lr-1e-2_seed-4", "near_lr-1e-3_seed-3",
                                      "near_lr-1e-3_seed-4", "all_lr-1e-2_seed-3", "all_lr-1e-2_seed-4",
                                      "all_lr-1e-3_seed-3", "all_lr-1e-3_seed-4"}));
  const Cell& cell = sweep.cells[3];
  EXPECT_EQ(cell.config.seed, 4);
  EXPECT_EQ(cell.config.train.lr, 1e-3);
  EXPECT_EQ(to_yaml(cell.config.pattern), "local: {window: 8}\n");
  EXPECT_EQ(cell.config.train.out, "runs/ablations/sweep/near_lr-1e-3_seed-4");
  EXPECT_EQ(sweep.variant(cell), "near, lr-1e-3");
  EXPECT_EQ(sweep.like(cell, "all")->name, "all_lr-1e-3_seed-4");
  EXPECT_EQ(sweep.compare, std::vector<std::string>{"pattern"});
}

TEST_F(SweepFile, AxesMoveTogether) {
  const Sweep sweep = load(
      "axes: {data.seq_len: [64, 128], pattern: [{local: {window: 8}}], train.batch_size: [8, 4]}\n"
      "together: [[train.batch_size, data.seq_len]]\nout: here\n");
  EXPECT_EQ(names(sweep), (std::vector<std::string>{"seq_len-64_local-window-8_batch_size-8",
                                                    "seq_len-128_local-window-8_batch_size-4"}));
  EXPECT_EQ(sweep.cells[1].config.train.batch_size, 4);
  EXPECT_EQ(sweep.cells[1].config.train.out, "here/seq_len-128_local-window-8_batch_size-4");
}

TEST_F(SweepFile, TheBaseIsAFileOrExtendsOne) {
  spill(folder_ / "base.yaml",
        "model: {dim: 32, n_layers: 1, n_heads: 2}\ndata: {train: [text], seq_len: 64}\n"
        "train: {steps: 10, batch_size: 4, lr: 1e-2}\n");
  spill(folder_ / "a.yaml", "base: base.yaml\naxes: {seed: [1]}\n");
  spill(folder_ / "b.yaml", "base: {extends: base.yaml, train: {steps: 20}}\naxes: {seed: [1]}\n");
  EXPECT_EQ(load_sweep(folder_ / "a.yaml").cells[0].config.train.steps, 10);
  EXPECT_EQ(load_sweep(folder_ / "a.yaml", {"train.steps=7"}).cells[0].config.train.steps, 7);
  EXPECT_EQ(load_sweep(folder_ / "b.yaml").cells[0].config.train.steps, 20);
  EXPECT_EQ(load_sweep(folder_ / "b.yaml", {}, "there").cells[0].config.train.out, "there/seed-1");
}

TEST_F(SweepFile, MistakesAreNamedWhereTheyStand) {
  struct Case {
    const char* text;
    std::vector<const char*> parts;
  };
  const std::vector<Case> cases = {
      {"axes: {train.stesp: [1, 2]}\n", {"sweep.yaml:6:8", "unknown key 'train.stesp'", "steps"}},
      {"axes: {}\n", {"sweep.yaml:6:7", "axes is empty"}},
      {"axes:\n", {"axes is empty"}},
      {"axes: {seed: []}\n", {"sweep.yaml:6:14", "axes.seed has no values"}},
      {"axes: {seed: 3}\n", {"axes.seed must be a list"}},
      {"axes: {train.out: [a, b]}\n", {"train.out cannot be an axis"}},
      {"axes: {seed: [1, 1]}\n", {"two cells", "runs/ablations/sweep/seed-1", "names"}},
      {"axes: {pattern: {a b: full, a-b: {local: {window: 4}}}}\n", {"two cells", "/a-b"}},
      {"axes: {seed: [1]}\ntogether: [[seed, tile]]\n", {"sweep.yaml:7:19", "tile", "no axis"}},
      {"axes: {seed: [1], tile: [16, 32]}\ntogether: [[seed, tile]]\n", {"as many values", "tile has 2"}},
      {"axes: {seed: [1]}\nequal: tiles\n", {"sweep.yaml:7:8", "equal must be"}},
      {"axes: {seed: [1]}\nequal: {tiles: {}}\n",
       {"exactly one target", "budget", "of full attention's tiles"}},
      {"axes: {seed: [1]}\nequal: {tiles: {like: full}}\n", {"sweep.yaml:7:23", "'full'", "seed-1"}},
      {"axes: {seed: [1]}\nequal: {tile: {budget: 0.5}}\n", {"unknown key 'equal.tile'"}},
      {"axes: {seed: [1]}\nequal: {tiles: {density: 0.5}}\n",
       {"sweep.yaml:7:26", "a share of the whole grid", "write budget", "of full attention's tiles"}},
      {"axes: {seed: [1]}\ncompare: [seed]\n", {"compare names 'seed'"}},
      {"axes: {seed: [1]}\nequals: none\n", {"unknown key 'equals'", "equal"}},
      {"axes: {pattern: [{local: {window: fit}}]}\n", {"`fit`", "equal: tiles"}},
      {"axes: {model.n_heads: [2, 3]}\n", {"must divide model.dim", "cell n_heads-3"}},
  };
  for (const Case& c : cases) {
    const std::string text = refusal(c.text);
    for (const char* part : c.parts) EXPECT_NE(text.find(part), std::string::npos) << c.text << text;
  }
  EXPECT_NE(refusal("axes: {seed: [1]}\n", {"seed=4"}).find("no effect"), std::string::npos);
  EXPECT_NE(refusal("axes: {seed: [1]}\n", {"train.out=a"}).find("--out names"), std::string::npos);
  spill(folder_ / "lost.yaml", "base: nowhere.yaml\naxes: {seed: [1]}\n");
  EXPECT_NE(error_text(ErrorKind::usage, [&] { load_sweep(folder_ / "lost.yaml"); }).find("lost.yaml:1:7"),
            std::string::npos);
}

TEST_F(SweepFile, PatternsAreFittedToTheSameTiles) {
  const Sweep sweep = load(
      "axes:\n  pattern:\n    all: full\n    bird: {bigbird: {block: 16, window: 3, global: 1, random: 1}}\n"
      "    near: {local: {}}\n    far: {union: [{local: {window: 4}}, {strided: {stride: fit}}]}\n"
      "  seed: [1, 2]\nequal: {tiles: {like: bird, tolerance: 0.1, except: [all]}}\n");
  // Rows of 8 tiles: BigBird computes a window of 2, a global one and a random one, all as far as there are
  // any: 1 + 2 + 3 + 4 * 5 per head. The window of 49 tokens of `local` reaches 3 tiles back.
  EXPECT_EQ(tiles_per_layer(sweep.cells[2].config), 2 * 26);
  EXPECT_EQ(tiles_per_layer(sweep.cells[0].config), 2 * 36);
  EXPECT_FALSE(sweep.cells[0].fitted);
  EXPECT_FALSE(sweep.cells[2].fitted);
  ASSERT_TRUE(sweep.cells[4].fitted);
  EXPECT_EQ(sweep.cells[4].fitted->tiles, 2 * 26);
  EXPECT_EQ(sweep.cells[4].fitted->target, 2 * 26);
  EXPECT_EQ(to_yaml(sweep.cells[5].config.pattern), to_yaml(sweep.cells[4].config.pattern));
  // Two tiles before the diagonal's: windows of 18 to 33 tokens compute 1 + 2 + 3 * 6 tiles; but of 34 to 49,
  // 1 + 2 + 3 + 4 * 5. The largest of these needs most of them.
  EXPECT_EQ(to_yaml(sweep.cells[4].config.pattern), "local: {window: 49}\n");
  for (const Cell& cell : sweep.cells) {
    if (!cell.fitted) continue;
    EXPECT_EQ(cell.fitted->tiles, tiles_per_layer(cell.config));
    EXPECT_NEAR(cell.fitted->tiles, 2 * 26, 0.1 * 2 * 26) << cell.name;
  }
}

// Learned patterns count what they will have once they are static; a router, what it computes at most.
TEST_F(SweepFile, LearnedPatternsAreFittedToWhatTheyWillCompute) {
  const Sweep sweep = load(
      "axes:\n  pattern:\n    near: {local: {window: 33}}\n    units: learned_layout\n"
      "    span: {learned_span: {tiles: fit, ramp: 16}}\n    top: {block_topk: {sinks: 1}}\n"
      "    static: {block_topk: {sinks: 1, topk: 1, budget: 0.5, harden: 0.6}}\n"
      "    mixed: {heads: [{count: 1, pattern: {local: {window: 33}}}, {count: 1, pattern: {learned_layout: "
      "{tiles: fit}}}]}\n"
      "equal: {tiles: {like: near, tolerance: 0.15}}\n");
  // Rows of 8 tiles: 1 + 2 + 6 * 3 of each of two heads; the router's topk of 1 adds to the diagonal and a
  // sink. Half of all 36 tiles are 18.
  const std::map<std::string, std::pair<std::string, std::int64_t>> expected = {
      {"units", {"tiles", 42}}, {"span", {"tiles", 42}}, {"top", {"topk", 1}}, {"mixed", {"tiles", 21}}};
  for (const Cell& cell : sweep.cells) {
    const bool is_static = cell.name == "static";
    EXPECT_EQ(tiles_per_layer(cell.config), is_static ? 36 : 42) << cell.name;
    if (cell.name == "near" || is_static) continue;
    ASSERT_TRUE(cell.fitted) << cell.name;
    EXPECT_EQ(std::pair(cell.fitted->parameter, cell.fitted->value), expected.at(cell.name)) << cell.name;
  }
  const auto refused = [&](int target) {
    return refusal(
        fmt::format("axes: {{pattern: {{units: {{learned_layout: {{tiles: fit}}}}}}}}\n"
                    "equal: {{tiles: {{per_layer: {}, tolerance: 0.02}}}}\n",
                    target));
  };
  EXPECT_NE(refused(10).find("tiles 16 gives 16 (+60.0 %)"), std::string::npos) << refused(10);
  EXPECT_NE(refused(7).find("no tiles is possible"), std::string::npos) << refused(7);
  EXPECT_NE(refused(7).find("cannot hold the diagonal"), std::string::npos) << refused(7);
}

TEST_F(SweepFile, WhatCannotBeFittedIsRefusedWithTheNumbers) {
  const std::string tiles = "equal: {tiles: {per_layer: 30, tolerance: 0.02}}\n";
  const std::string fixed = refusal("axes: {pattern: {all: full}}\n" + tiles);
  for (const char* part : {"sweep.yaml:7:8", "all", "30 tiles", "computes 72 (+140.0 %)", "except"})
    EXPECT_NE(fixed.find(part), std::string::npos) << fixed;
  // 8 tiles a head is the least that can be, 15 the next: 16 and 30 of both; 23 lies between.
  const std::string between = refusal(
      "axes: {pattern: {near: {local: {window: fit}}}}\n"
      "equal: {tiles: {per_layer: 23, tolerance: 0.02}}\n");
  for (const char* part : {"window 1 gives 16 (-30.4 %)", "window 2 gives 30 (+30.4 %)", "tolerance"})
    EXPECT_NE(between.find(part), std::string::npos) << between;
  const std::string wrong = refusal("axes: {pattern: {near: {local: {windo: fit}}}}\n" + tiles);
  EXPECT_NE(wrong.find("windo"), std::string::npos) << wrong;
}

// If any value of the parameter meets the target, one is found, for targets that some value has.
TEST(Fitting, FindsAValueWhereThereIsOne) {
  RandomStream random(test_seed());
  const char* patterns[] = {"{local: {window: fit}}",
                            "{strided: {stride: fit}}",
                            "{fixed: {stride: fit, summary: 2}}",
                            "{longformer: {window: fit, global: 3}}",
                            "{bigbird: {block: 16, window: 1, global: 1, random: fit}}",
                            "{random_blocks: {block: 8, blocks: fit}}",
                            "{random: {keys: fit}}",
                            "{minus: [full, {local: {window: fit}}]}"};
  for (const char* text : patterns) {
    const YamlNode pattern = parse_yaml(text, "pattern");
    const auto tiles = [&](std::int64_t value) -> std::optional<double> {
      try {
        const auto made = make_pattern(read_pattern(with_parameter(pattern, value)), 0, 1, 1);
        return static_cast<double>(build_layout(*made, {160, true, 16}, 1).statistics().computed_tiles);
      } catch (const Error&) {
        return std::nullopt;
      }
    };
    const auto aim = static_cast<std::int64_t>(random.below(160)) + 1;
    const auto target = tiles(aim);
    if (!target || *target == 0) continue;
    const FitSearch found = fit_parameter(tiles, 160, 16, *target, 0.0);
    ASSERT_TRUE(found.best) << text << " " << aim;
    EXPECT_EQ(*tiles(*found.best), *target) << text << " " << aim;
  }
}

TEST(Fitting, APlateauEndsWhereTheTilesChange) {
  RandomStream random(test_seed());
  for (int round = 0; round < 50; ++round) {
    const auto first = static_cast<std::int64_t>(random.below(40)),
               width = static_cast<std::int64_t>(random.below(20));
    const auto tiles = [&](std::int64_t v) -> std::optional<double> {
      return v < first ? 1 : v <= first + width ? 2 : 3;
    };
    const std::int64_t inside =
        first + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(width) + 1));
    EXPECT_EQ(plateau(tiles, inside, 60), std::pair(first, std::min<std::int64_t>(60, first + width)))
        << first << " " << width << " " << inside;
  }
}

TEST(Fitting, ThePlaceOfTheParameter) {
  const auto yaml = [](const std::string& text) { return parse_yaml(text, "pattern"); };
  const auto with_default = [&](const std::string& text) {
    YamlNode root = YamlNode::make_map();
    root.add("pattern", with_default_parameter(yaml(text)));
    return to_yaml(root);
  };
  EXPECT_EQ(with_default("local"), "pattern: {local: {window: fit}}\n");
  EXPECT_EQ(with_default("{bigbird: {block: 32}}"), "pattern: {bigbird: {block: 32, random: fit}}\n");
  EXPECT_EQ(with_default("{local: {window: 8}}"), "pattern: {local: {window: 8}}\n");
  EXPECT_EQ(with_default("full"), "pattern: full\n");
  EXPECT_FALSE(free_parameter(yaml("{local: {window: 'fit'}}"))) << "quoted, it is a string";
  EXPECT_TRUE(free_parameter(yaml("{union: [full, {local: {window: fit}}]}")));
}

TEST(Budget, StepsFillTheSameTime) {
  TemporaryFolder folder;
  spill(folder / "sweep.yaml",
        std::string(kBase) +
            "axes: {pattern: {a: full, b: {local: {window: 4}}, c: {local: {window: 8}}}}\n"
            "equal: {time: {like: a, except: [c]}}\n");
  Sweep sweep = load_sweep(folder / "sweep.yaml", {"train.warmup_steps=4", "train.steps=20"});
  set_steps(sweep, {{"a", 0.5}, {"b", 0.2}, {"c", 0.1}});
  EXPECT_EQ(sweep.cells[0].config.train.steps, 20);
  EXPECT_EQ(sweep.cells[1].config.train.steps, 50) << "20 steps of 0.5 s in steps of 0.2 s";
  EXPECT_EQ(sweep.cells[1].config.train.warmup_steps, 10) << "the same share";
  EXPECT_EQ(sweep.cells[2].config.train.steps, 20) << "excepted";
  EXPECT_NE(error_text(ErrorKind::usage,
                       [&] {
                         set_steps(sweep, {{"a", 0.5}, {"b", 9.0}, {"c", 0.1}});
                       })
                .find("cell b, where a step takes 9 s"),
            std::string::npos);
  spill(folder / "metrics.jsonl",
        "{\"step\": 1, \"loss\": 1, \"timing\": {\"seconds\": 9}}\n{\"step\": 2, \"loss\": 1, \"timing\": "
        "{\"seconds\": 9}}\n{\"step\": 3, \"loss\": 1, \"timing\": {\"seconds\": 0.25}}\n"
        "{\"step\": 3, \"val_loss\": 1, \"timing\": {\"seconds\": 7}}\n");
  EXPECT_EQ(median_step_seconds(folder / "metrics.jsonl"), 0.25);
}

TEST(Failures, TheLastErrorOfALogIsFound) {
  TemporaryFolder folder;
  const std::string before = "filigree: an old error\n  hint: old\n";
  spill(folder / "log", before + "step 1\nfiligree: no disk\n  hint: buy one\n");
  EXPECT_EQ(last_error(folder / "log", before.size(), 5), "no disk (hint: buy one)");
  EXPECT_EQ(last_error(folder / "log", slurp(folder / "log").size(), 5), "ended with exit code 5");
  EXPECT_NE(last_error(folder / "log", 0, 128 + SIGKILL).find("out of memory"), std::string::npos);
}

// --- whole sweeps ---

class AblateTest : public RunTest {
 protected:
  AblateTest() {
    write("sweep.yaml",
          "base: config.yaml\naxes:\n  pattern: {near: {local: {window: 4}}, all: full}\n  seed: [1, 2]\n"
          "out: sweep\n");
  }
  nlohmann::json json(const std::string& name) const { return nlohmann::json::parse(slurp(path(name))); }
  static void expect_part(const Outcome& outcome, const std::string& part) {
    EXPECT_NE(outcome.output.find(part), std::string::npos) << part << "\n" << outcome.output;
  }
  static constexpr const char* kCells[] = {"near_seed-1", "near_seed-2", "all_seed-1", "all_seed-2"};
};

TEST_F(AblateTest, EveryCellIsAnOrdinaryRun) {
  const Outcome outcome = run({"ablate", "sweep.yaml", "--jobs", "2", "train.steps=12"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  for (const char* cell : kCells) {
    EXPECT_EQ(json(fmt::format("sweep/{}/run.json", cell)).at("status"), "finished");
    EXPECT_TRUE(fs::exists(path("sweep") / cell / "summary.json"));
  }
  ASSERT_EQ(run({"train", "sweep/all_seed-2/cell.yaml", "train.out=alone"}).exit_code, 0);
  EXPECT_EQ(metrics("alone"), metrics("sweep/all_seed-2"));
  const auto results = json("sweep/results.json");
  EXPECT_EQ(results.at("metric"), "val_bits_per_byte");
  EXPECT_EQ(results.at("runs").size(), 4u);
  EXPECT_EQ(results.at("settings").at(0).at("variants").size(), 2u);
  const std::string csv = slurp(path("sweep/results.csv"));
  EXPECT_EQ(std::ranges::count(csv, '\n'), 5);
  EXPECT_NE(slurp(path("sweep/results.md")).find("| near | "), std::string::npos);
  EXPECT_TRUE(fs::exists(path("sweep/report.html")));
  // Nothing is left to do: the second time nothing is trained.
  const std::string before = slurp(path("sweep/near_seed-1/metrics.jsonl"));
  const Outcome again = run({"ablate", "sweep.yaml", "train.steps=12"});
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_EQ(again.output.find("finished  near"), std::string::npos) << again.output;
  EXPECT_EQ(slurp(path("sweep/near_seed-1/metrics.jsonl")), before);

  // Another config is refused before anything starts; what is new is trained, the rest kept.
  const Outcome changed = run({"ablate", "sweep.yaml", "train.steps=13"});
  EXPECT_EQ(changed.exit_code, 2);
  expect_part(changed,
              "4 of 4 cells in sweep were trained with another config: near_seed-1 (train.steps: 12 / 13");
  expect_part(changed, "--overwrite");
  write("sweep.yaml",
        "base: config.yaml\naxes:\n  pattern: {near: {local: {window: 4}}, all: {local: {window: 9}}}\n"
        "  seed: [1]\nout: sweep\n");
  const Outcome partly = run({"ablate", "sweep.yaml", "train.steps=12", "--overwrite"});
  EXPECT_EQ(partly.exit_code, 0) << partly.output;
  expect_part(partly, "finished  all_seed-1");
  EXPECT_EQ(slurp(path("sweep/near_seed-1/metrics.jsonl")), before);
  EXPECT_TRUE(fs::exists(path("sweep/all_seed-2/run.json"))) << "no longer a cell, but not ours to remove";
}

TEST_F(AblateTest, KilledAndResumedRepeatsNothing) {
  {
    Process process = start({"ablate", "sweep.yaml"});
    ASSERT_TRUE(process.wait_for("finished  near_seed-1")) << process.output();
    for (int i = 0; i < 500 && metrics("sweep/near_seed-2").size() < 10; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    process.send(SIGKILL);
    EXPECT_EQ(process.finish().exit_code, 128 + SIGKILL);
  }
  const std::string finished = slurp(path("sweep/near_seed-1/metrics.jsonl"));
  ASSERT_FALSE(finished.empty());
  const Outcome outcome = run({"ablate", "sweep.yaml"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(slurp(path("sweep/near_seed-1/metrics.jsonl")), finished) << "was trained again";
  EXPECT_EQ(json("sweep/near_seed-1/run.json").at("commands").size(), 1u);
  EXPECT_EQ(outcome.output.find("finished  near_seed-1"), std::string::npos) << outcome.output;
  ASSERT_EQ(run({"train", "sweep/near_seed-2/cell.yaml", "train.out=alone"}).exit_code, 0);
  EXPECT_EQ(metrics("sweep/near_seed-2"), metrics("alone"));
}

TEST_F(AblateTest, CellsThatRanBesideOthersAreTimedAlone) {
  const std::vector<std::string> sweep = {"ablate", "sweep.yaml", "--jobs", "2", "train.steps=12"};
  auto untimed = sweep;
  untimed.emplace_back("--no-timing");
  const Outcome first = run(untimed);
  ASSERT_EQ(first.exit_code, 0) << first.output;
  EXPECT_EQ(json("sweep/sweep.json").at("beside_others").size(), 4u);
  EXPECT_NE(slurp(path("sweep/results.md")).find("Speeds are not ranked"), std::string::npos);
  const Outcome timed = run(sweep);
  ASSERT_EQ(timed.exit_code, 0) << timed.output;
  expect_part(timed, "timing    4 cells, each alone for 8 steps, since they ran beside others");
  for (const char* cell : kCells)
    EXPECT_GT(json("sweep/sweep.json").at("alone").at(cell).at("step_seconds"), 0) << cell;
  EXPECT_EQ(slurp(path("sweep/results.md")).find("Speeds are not ranked"), std::string::npos);
  EXPECT_FALSE(fs::exists(path("sweep/near_seed-1.probe")));
  EXPECT_EQ(run(sweep).output.find("timing    "), std::string::npos) << "kept";
}

TEST_F(AblateTest, CellsThatRanAloneKeepTheirSpeed) {
  const Outcome outcome = run({"ablate", "sweep.yaml", "train.steps=12"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(outcome.output.find("timing    "), std::string::npos) << outcome.output;
  EXPECT_TRUE(json("sweep/sweep.json").at("beside_others").empty());
}

TEST_F(AblateTest, CellsOnDataThatHasChangedAreNotMixedWithOthers) {
  const std::vector<std::string> sweep = {"ablate", "sweep.yaml",  "--jobs",
                                          "2",      "--no-timing", "train.steps=4"};
  ASSERT_EQ(run(sweep).exit_code, 0);
  fs::remove_all(path("sweep/all_seed-2"));
  write("text/later.txt", "a text that came later\n");
  const Outcome refused = run(sweep);
  EXPECT_EQ(refused.exit_code, 3);
  expect_part(refused, "3 of 4 cells in sweep were trained on data that has changed since, such as ");
  fs::remove(path("text/later.txt"));
  const std::string before = slurp(path("sweep/near_seed-1/metrics.jsonl"));
  EXPECT_EQ(run(sweep).exit_code, 0);
  EXPECT_EQ(slurp(path("sweep/near_seed-1/metrics.jsonl")), before);
  write("text/later.txt", "a text that came later\n");
  EXPECT_EQ(run(sweep).exit_code, 0) << "nothing is left to train";
  fs::remove_all(path("sweep/all_seed-2"));
  std::vector<std::string> anew = sweep;
  anew.emplace_back("--overwrite");
  EXPECT_EQ(run(anew).exit_code, 0);
  EXPECT_NE(slurp(path("sweep/near_seed-1/metrics.jsonl")), before);
}

TEST_F(AblateTest, CtrlCStopsTheCellsAndGoesOnLater) {
  Process process =
      start({"ablate", "sweep.yaml", "--jobs", "2", "train.steps=2000", "train.eval_interval=0"});
  for (int i = 0; i < 6000 && (metrics("sweep/near_seed-1").empty() || metrics("sweep/near_seed-2").empty());
       ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  process.send(SIGINT);
  const Outcome stopped = process.finish();
  EXPECT_EQ(stopped.exit_code, 75) << stopped.output;
  expect_part(stopped, "the same command goes on: 0 of 4 cells are finished");
  for (const char* cell : {"near_seed-1", "near_seed-2"})
    EXPECT_NE(slurp(path("sweep") / cell / "output.log").find("stopped by a signal"), std::string::npos);
  EXPECT_FALSE(fs::exists(path("sweep/all_seed-1")));
  EXPECT_EQ(json("sweep/near_seed-1/run.json").at("status"), "unfinished");
}

TEST_F(AblateTest, StoppedBeforeItsFirstStepIsNoFailure) {
  Process process = start({"ablate", "sweep.yaml"});
  for (int i = 0; i < 6000 && !fs::exists(path("sweep/near_seed-1/output.log")); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  process.send(SIGTERM);
  const Outcome stopped = process.finish();
  EXPECT_EQ(stopped.exit_code, 75) << stopped.output;
  EXPECT_EQ(stopped.output.find("failed"), std::string::npos) << stopped.output;
}

TEST_F(AblateTest, WeightsThatAreNotThereStopItBeforeTheFirstCell) {
  write("sweep.yaml", "base: config.yaml\naxes: {seed: [1, 2]}\nout: sweep\n");
  const Outcome lacking = run({"ablate", "sweep.yaml", "train.steps=4", "train.init_from=runs/nowhere"});
  EXPECT_NE(lacking.exit_code, 0);
  expect_part(lacking, "runs/nowhere: there is no such checkpoint");
  EXPECT_EQ(lacking.output.find("failed "), std::string::npos) << lacking.output;
}

TEST_F(AblateTest, FailedAndDamagedCellsAreReportedAndStopNothing) {
  write(
      "sweep.yaml",
      "base: config.yaml\naxes: {model.vocab_size: {huge: 1073741824, fine: 300, good: 301}}\nout: sweep\n");
  const Outcome failed = run({"ablate", "sweep.yaml", "train.steps=4"});
  EXPECT_EQ(failed.exit_code, 6) << failed.output;
  expect_part(failed, "failed    huge: the expected peak is more memory than there is (hint: lower");
  expect_part(failed, "finished  good");
  expect_part(failed, "1 of 3 cells failed");
  EXPECT_NE(slurp(path("sweep/report.html")).find("sweep/huge"), std::string::npos) << "left out, and why";

  const std::string before = slurp(path("sweep/good/metrics.jsonl"));
  write("sweep/fine/summary.json", "{\"steps\": ");
  const Outcome damaged = run({"ablate", "sweep.yaml", "train.steps=4"});
  EXPECT_EQ(damaged.exit_code, 3) << damaged.output;
  expect_part(damaged, "failed    fine: sweep/fine/summary.json: is damaged");
  expect_part(damaged, "--overwrite trains it anew");
  EXPECT_EQ(slurp(path("sweep/good/metrics.jsonl")), before);
  const Outcome mended = run({"ablate", "sweep.yaml", "train.steps=4", "--overwrite"});
  expect_part(mended, "finished  fine");
  EXPECT_EQ(slurp(path("sweep/good/metrics.jsonl")), before);
}

TEST_F(AblateTest, EqualTimeMeasuresOnceAndKeepsItsSteps) {
  write("sweep.yaml",
        "base: config.yaml\naxes: {pattern: {near: {local: {window: 4}}, all: full}}\n"
        "equal: {time: {seconds: 1.5, probe_steps: 5}}\nout: sweep\n");
  const Outcome outcome =
      run({"ablate", "sweep.yaml", "train.warmup_steps=0", "train.eval_interval=0", "checkpoint.interval=0"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const auto sweep = json("sweep/sweep.json");
  for (const char* cell : {"near", "all"}) {
    const double seconds = sweep.at("step_seconds").at(cell).at("seconds");
    EXPECT_EQ(json(fmt::format("sweep/{}/summary.json", cell)).at("steps"),
              static_cast<std::int64_t>(1.5 / seconds));
    EXPECT_FALSE(fs::exists(path(fmt::format("sweep/{}.probe", cell))));
  }
  const Outcome again =
      run({"ablate", "sweep.yaml", "train.warmup_steps=0", "train.eval_interval=0", "checkpoint.interval=0"});
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_EQ(again.output.find("measuring"), std::string::npos) << again.output;
}

// A sweep of learned patterns runs to its end, and the page draws what each head has learned.
TEST_F(AblateTest, LearnedPatternsFinishAndAreDrawn) {
  write("sweep.yaml",
        "base: config.yaml\naxes:\n  pattern:\n    near: {local: {window: 33}}\n"
        "    units: {learned_layout: {tiles: fit, warmup: 0.1, anneal: 0.5, harden: 0.7}}\n"
        "    span: {learned_span: {tiles: fit, warmup: 0.1, anneal: 0.5, harden: 0.7}}\n"
        "    top: {block_topk: {topk: fit, sinks: 1, warmup: 0.2}}\n"
        "equal: {tiles: {like: near, tolerance: 0.05}}\nout: sweep\n");
  const Outcome outcome = run({"ablate", "sweep.yaml", "--jobs", "2", "data.seq_len=96"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const auto heads = json("sweep/report.json").at("heads");
  EXPECT_EQ(heads.dump().find("No picture"), std::string::npos);
  EXPECT_NE(heads.dump().find("choose for the first sequence"), std::string::npos);
  const std::string top = "top";
  for (const std::string cell : {"near", "units", "span", "top"}) {
    // 6 query tiles of 2 heads: at most 1 + 2 + 4 * 3 each.
    for (const auto& layers : json(fmt::format("sweep/{}/summary.json", cell)).at("layers")) {
      EXPECT_LE(layers.at("computed_tiles"), 30) << cell;
      EXPECT_GE(layers.at("computed_tiles"), cell == top ? 12 : 30) << cell;
    }
    if (cell == top || cell == "near") continue;
    const LoadedModel loaded = load_model(path("sweep") / cell);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const LayoutPtr learned = loaded.model->connectivities()[layer]->connect({96}).layout;
      for (int head = 0; head < 2; ++head) {
        const std::string drawing = nlohmann::json(pattern_picture(*learned, head)).dump();
        EXPECT_NE(heads.dump().find(drawing), std::string::npos)
            << cell << " layer " << layer << " head " << head;
      }
    }
  }
  // What cannot be drawn any more is said, and costs no more than its picture.
  for (const auto& entry : fs::directory_iterator(path("sweep/units/checkpoints"))) fs::remove(entry.path());
  ASSERT_EQ(run({"report", "sweep", "-o", "page.html"}).exit_code, 0);
  EXPECT_NE(slurp(path("page.json")).find("No picture: sweep/units"), std::string::npos);
}

TEST_F(AblateTest, WhatASweepWritesIsNotItsData) {
  const Outcome outcome = run({"ablate", "sweep.yaml", "--out", "text/sweep"});
  EXPECT_EQ(outcome.exit_code, 2);
  expect_part(outcome, "text/sweep lies in its data");
  EXPECT_FALSE(fs::exists(path("text/sweep")));
}

TEST(ReadySweeps, Load) {
  int count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(FILIGREE_SOURCE_DIR "/configs"))
    if (entry.path().extension() == ".yaml" && parse_yaml_file(entry.path()).find("axes")) {
      EXPECT_GT(load_sweep(entry.path()).cells.size(), 1u) << entry.path();
      ++count;
    }
  EXPECT_GE(count, 7);
}

TEST(ReadySweeps, AreWhatTheirCommentsSay) {
  const fs::path folder = FILIGREE_SOURCE_DIR "/configs/ablations";
  const auto cells = [&](const char* name, std::vector<std::string> overrides = {}) {
    return load_sweep(folder / name, overrides).cells;
  };
  for (const Cell& cell : cells("small.yaml"))
    EXPECT_NEAR(tiles_per_layer(cell.config), cell.labels[0] == "full" ? 2112 : 600, 1) << cell.name;
  EXPECT_EQ(cells("window-size.yaml").size(), 15u);
  EXPECT_EQ(cells("tile-size.yaml").size(), 15u);
  EXPECT_EQ(cells("passkey.yaml").size(), 16u);
  for (const char* name :
       {"patterns-lm.yaml", "patterns-mqar.yaml", "patterns-listops.yaml", "passkey.yaml"}) {
    const Sweep sweep = load_sweep(folder / name);
    for (const Cell& cell : sweep.cells) {
      if (std::ranges::count(cell.labels, "full") > 0) continue;
      const double target = tiles_per_layer(sweep.like(cell, "bigbird")->config);
      EXPECT_NEAR(tiles_per_layer(cell.config) / target, 1, sweep.equal.tolerance)
          << name << " " << cell.name;
      EXPECT_LT(target, 0.7 * tiles_per_layer(sweep.like(cell, "full")->config));
    }
  }
}

TEST_F(AblateTest, OneSweepAtATime) {
  Process first = start({"ablate", "sweep.yaml", "train.steps=100000"});
  ASSERT_TRUE(first.wait_for("variant")) << first.output();
  for (int i = 0; i < 2000 && !fs::exists(path("sweep/sweep.json")); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const Outcome second = run({"ablate", "sweep.yaml", "train.steps=100000"});
  EXPECT_EQ(second.exit_code, 2);
  expect_part(second, "in use by process");
  first.send(SIGTERM);
  EXPECT_EQ(first.finish().exit_code, 75);
}

}  // namespace
}  // namespace filigree
