// Learned patterns in whole runs: learning, hardening, resuming, and what one does with the result.
#include <nlohmann/json.hpp>

#include "tests/run_fixture.h"

namespace filigree {
namespace {

using Json = nlohmann::json;

class LearnedRun : public RunTest {
 protected:
  // 20 steps: 4 of warm-up, learning until step 12, then hardened.
  static constexpr const char* kMixed =
      "pattern={heads: [{count: 1, pattern: {local: {window: 20}}}, {count: 1, pattern: {learned_layout: "
      "{budget: 0.6, "
      "warmup: 0.2, anneal: 0.4, harden: 0.6, explore: 0.3, refresh: 3}}}]}";
  static constexpr const char* kRouted = "pattern={block_topk: {topk: 1, sinks: 1, warmup: 0.2}}";

  std::vector<std::string> command(const std::string& pattern, const std::string& out,
                                   std::vector<std::string> more = {}) {
    std::vector<std::string> all = {"train",
                                    "config.yaml",
                                    pattern,
                                    "data.seq_len=96",
                                    "train.steps=20",
                                    "train.eval_interval=5",
                                    "checkpoint.interval=5",
                                    "checkpoint.keep=10",
                                    "train.out=" + out};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::vector<Json> lines(const std::string& run, const std::string& key) const {
    std::vector<Json> all;
    for (const std::string& line : metrics(run))
      if (const Json j = Json::parse(line); j.contains(key)) all.push_back(j);
    return all;
  }
};

TEST_F(LearnedRun, LearnsHardensAndTellsAboutIt) {
  const Outcome outcome = run(command(kMixed, "mixed"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const auto patterns = lines("mixed", "patterns");
  ASSERT_EQ(patterns.size(), 4u);  // one per evaluation
  for (const Json& line : patterns)
    for (const Json& layer : line["patterns"])
      for (const char* key : {"target_tiles", "expected_tiles", "actual_tiles", "gate_histogram", "units",
                              "dead_units", "head_imbalance"})
        EXPECT_TRUE(layer.contains(key)) << key;
  // One learned head of 96 tokens: 21 tiles, of which 60 % stay.
  EXPECT_EQ(patterns.back()["patterns"][0]["actual_tiles"], 13);
  const auto evaluations = lines("mixed", "val_loss");
  EXPECT_TRUE(evaluations[1].contains("val_loss_hardened"));       // at step 10
  EXPECT_FALSE(evaluations.back().contains("val_loss_hardened"));  // it is hardened

  const CheckpointContents end = read_checkpoint(path("mixed/checkpoints/step_000020.h5"));
  std::vector<std::string> names;
  for (const auto& [name, tensor] : end.patterns) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"blocks.0.pattern.1.phase", "blocks.0.pattern.1.tiles",
                                             "blocks.0.pattern.1.shift", "blocks.1.pattern.1.phase",
                                             "blocks.1.pattern.1.tiles", "blocks.1.pattern.1.shift"}));
}

TEST_F(LearnedRun, AGeneratedTaskStartsFromWeightsToo) {
  const auto task = [this](const std::string& pattern, const std::string& out, const std::string& from) {
    std::vector<std::string> all =
        command("pattern=" + pattern, out,
                {"data.train=null", "data.val_fraction=null", "data.task={mqar: {vocab: 32, pairs: 4}}"});
    if (!from.empty()) all.push_back("train.init_from=" + from);
    return all;
  };
  const Outcome first = run(task("full", "first", ""));
  ASSERT_EQ(first.exit_code, 0) << first.output;
  const Outcome outcome = run(task("{local: {window: 20}}", "second", "first"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("from the weights of first"), std::string::npos) << outcome.output;
}

TEST_F(LearnedRun, ResumeIsBitwiseTheUninterruptedRunInEveryPhase) {
  for (const char* pattern : {kMixed, kRouted}) {
    ASSERT_EQ(run(command(pattern, "whole", {"--overwrite"})).exit_code, 0);
    for (const int step : {5, 10, 15}) {
      fs::remove_all(path("part"));
      fs::create_directories(path("part/checkpoints"));
      const std::string file = fmt::format("checkpoints/step_{:06}.h5", step);
      const Outcome outcome =
          run(command(pattern, "part", {"--overwrite", "--resume", path("whole/" + file).string()}));
      ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
      expect_same(path("whole/checkpoints/step_000020.h5"), path("part/checkpoints/step_000020.h5"));
    }
  }
}

TEST_F(LearnedRun, AHardenedRunIsUsedLikeAnyOther) {
  ASSERT_EQ(run(command(kMixed, "mixed")).exit_code, 0);
  const Outcome eval = run({"eval", "mixed"});
  EXPECT_EQ(eval.exit_code, 0) << eval.output;
  // With the cache and without it, hardened and while gates are soft.
  for (const char* model : {"mixed", "mixed/checkpoints/step_000010.h5"}) {
    const std::vector<std::string> generate = {"generate", model, "--prompt", "tile mask ", "--tokens", "60"};
    std::vector<std::string> anew = generate;
    anew.push_back("--no-cache");
    const Outcome text = run(generate), same = run(anew);
    EXPECT_EQ(text.exit_code, 0) << text.output;
    EXPECT_EQ(text.output, same.output);
  }
  const Outcome exported = run({"export", "mixed", "-o", "exported"});
  EXPECT_EQ(exported.exit_code, 0) << exported.output;
  const Json config = Json::parse(slurp(path("exported/config.json")));  // layers may have come to the same
  const auto layout = config["filigree"]["layouts"][0].get<std::string>();
  EXPECT_EQ(load_layout((path("exported") / layout).string()).of_head(1).tiles(), 13);
  const Outcome early = run({"export", "mixed/checkpoints/step_000010.h5", "-o", "early"});
  EXPECT_EQ(early.exit_code, 2);
  EXPECT_NE(early.output.find("its learned patterns are not static yet"), std::string::npos) << early.output;
  EXPECT_FALSE(fs::exists(path("early")));
  const Outcome tuned = run(command("pattern=full", "tuned",
                                    {"train.init_from=mixed", "train.steps=2", "train.eval_interval=2",
                                     "checkpoint.interval=2", "train.warmup_steps=1"}));
  EXPECT_EQ(tuned.exit_code, 0) << tuned.output;
  const Outcome picture = run({"explain", "mixed", "--layer", "0", "--dump", "layer.h5"});
  EXPECT_EQ(picture.exit_code, 0) << picture.output;
  EXPECT_NE(picture.output.find("96 tokens"), std::string::npos);
  EXPECT_EQ(load_layout(path("layer.h5").string()).of_head(1).tiles(), 13);
  const Outcome longer = run({"explain", "mixed", "--n", "960"});
  EXPECT_EQ(longer.exit_code, 0) << longer.output;

  // The layouts as files, and a run that reads them.
  const Outcome layouts = run({"harden", "mixed", "--layouts", "layouts"});
  ASSERT_EQ(layouts.exit_code, 0) << layouts.output;
  const Outcome again = run(command(
      "pattern={layers: [{layers: 0, pattern: {block: {file: layouts/layer_0.h5}}}, {layers: 1, pattern: "
      "{block: {file: layouts/layer_1.h5}}}]}",
      "again", {"train.steps=2", "train.eval_interval=2", "checkpoint.interval=2", "train.warmup_steps=1"}));
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_NE(again.output.find("layers 0-1") == std::string::npos,
            again.output.find("layer 0 ") == std::string::npos);
}

TEST_F(LearnedRun, HardenMakesARouterStatic) {
  ASSERT_EQ(run(command(kRouted, "routed")).exit_code, 0);
  const Outcome shown = run({"explain", "routed"});
  EXPECT_EQ(shown.exit_code, 2);
  EXPECT_NE(shown.output.find("layer 0 routes by its input"), std::string::npos) << shown.output;
  const Outcome hardened = run({"harden", "routed", "-o", "static.h5", "--batches", "2"});
  ASSERT_EQ(hardened.exit_code, 0) << hardened.output;
  const Outcome after = run({"explain", "static.h5", "--layer", "1", "--dump", "layer.h5"});
  EXPECT_EQ(after.exit_code, 0) << after.output;
  // 6 query tiles of 2 heads: at most the diagonal, a sink and one tile each.
  EXPECT_EQ(load_layout(path("layer.h5").string()).gate_size(), 2 * (1 + 2 + 4 * 3));
  const Outcome eval = run({"eval", "static.h5"});
  EXPECT_EQ(eval.exit_code, 0) << eval.output;
  const std::vector<std::string> generate = {"generate", "routed", "--prompt", "tile mask", "--tokens", "60"};
  std::vector<std::string> anew = generate;
  anew.push_back("--no-cache");
  const Outcome text = run(generate), same = run(anew);
  EXPECT_EQ(text.exit_code, 0) << text.output;
  EXPECT_EQ(text.output, same.output);
}

TEST_F(LearnedRun, HardenCalibratesAndShufflesButRefusesWhatMeansNothing) {
  ASSERT_EQ(run(command("pattern=full", "dense")).exit_code, 0);
  const Outcome nothing = run({"harden", "dense", "--layouts", "l"});
  EXPECT_EQ(nothing.exit_code, 2);
  EXPECT_NE(nothing.output.find("has no learned pattern; --budget calibrates"), std::string::npos)
      << nothing.output;
  const Outcome calibrated = run({"harden", "dense", "--layouts", "l", "--budget", "0.5", "--batches", "2"});
  ASSERT_EQ(calibrated.exit_code, 0) << calibrated.output;
  const TileLayout layout = load_layout(path("l/layer_1.h5").string());
  EXPECT_EQ(layout.gate_size(), 21);  // half of two heads' 21 tiles
  ASSERT_EQ(
      run({"harden", "dense", "--layouts", "s", "--budget", "0.5", "--batches", "2", "--shuffle-heads", "1"})
          .exit_code,
      0);
  const TileLayout shuffled = load_layout(path("s/layer_1.h5").string());
  EXPECT_EQ(shuffled.of_head(0), layout.of_head(1));
  EXPECT_EQ(shuffled.of_head(1), layout.of_head(0));
  const Outcome both = run({"harden", "dense", "-o", "x.h5", "--budget", "0.5"});
  EXPECT_EQ(both.exit_code, 2);
  EXPECT_NE(run({"harden", "dense"}).output.find("name one"), std::string::npos);

  ASSERT_EQ(run(command(kMixed, "early", {"train.steps=20"})).exit_code, 0);
  const Outcome early = run({"harden", "early/checkpoints/step_000005.h5", "--layouts", "e"});
  EXPECT_EQ(early.exit_code, 0) << early.output;  // it has begun to learn at step 4
}

TEST_F(LearnedRun, ABudgetThatDoesNotFitIsRefusedBeforeAnythingStarts) {
  const Outcome outcome = run(command("pattern={learned_layout: {budget: 0.05}}", "tight"));
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.output.find("cannot hold the diagonal, 12 tiles"), std::string::npos) << outcome.output;
  EXPECT_FALSE(fs::exists(path("tight")));
}

}  // namespace
}  // namespace filigree
