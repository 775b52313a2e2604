// Runs that are lengthened, shortened or forked: what stays to the bit, and what is refused.
#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/run_fixture.h"
#include "train/run/continuation.h"
#include "train/run/schedule.h"

namespace filigree {
namespace {

using Json = nlohmann::json;

class ContinueRun : public RunTest {
 protected:
  static std::vector<std::string> command(const std::string& out, std::vector<std::string> more) {
    std::vector<std::string> all = {"train", "config.yaml", "checkpoint.keep=9", "train.out=" + out};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  void expect(std::vector<std::string> arguments, int exit_code, const std::vector<std::string>& words) {
    const Outcome outcome = run(std::move(arguments));
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.output;
    for (const std::string& part : words)
      EXPECT_NE(outcome.output.find(part), std::string::npos) << "no '" << part << "' in:\n"
                                                              << outcome.output;
  }
  void stop_at(const std::string& line, const std::vector<std::string>& arguments) {
    Process process = start(arguments);
    ASSERT_TRUE(process.wait_for(line)) << process.output();
    process.send(SIGTERM);
    const Outcome outcome = process.finish();
    ASSERT_EQ(outcome.exit_code, 75) << outcome.output;
  }
  // Of training alone: the last evaluation of a run says more than others.
  std::vector<std::string> steps(const std::string& run) const {
    std::vector<std::string> lines;
    for (const std::string& line : metrics(run))
      if (Json::parse(line).contains("grad_norm")) lines.push_back(line);
    return lines;
  }
  static void expect_same_weights(const fs::path& a, const fs::path& b) {
    const CheckpointContents x = read_checkpoint(a), y = read_checkpoint(b);
    for (const auto& [left, right] :
         {std::pair(&x.weights, &y.weights), std::pair(&x.optimizer, &y.optimizer)}) {
      ASSERT_EQ(left->size(), right->size());
      for (std::size_t i = 0; i < left->size(); ++i)
        EXPECT_EQ(std::memcmp((*left)[i].second.raw_data(), (*right)[i].second.raw_data(),
                              static_cast<std::size_t>((*left)[i].second.bytes())),
                  0)
            << (*left)[i].first;
    }
  }
  Json json(const std::string& file) const { return Json::parse(slurp(path(file))); }
};

TEST_F(ContinueRun, AConstantRunIsLengthenedBitForBit) {
  // The first run's warm-up, 5 % of 24 steps, stays; of 60 steps it would be 3.
  ASSERT_EQ(
      run(command("whole", {"train.schedule=constant", "train.steps=60", "train.warmup_steps=1"})).exit_code,
      0);
  ASSERT_EQ(run(command("parts", {"train.schedule=constant"})).exit_code, 0);
  expect(command("parts", {"train.schedule=constant"}), 2,
         {"parts holds a finished run", "a larger train.steps than 24 lengthens it"});
  expect(command("parts", {"train.schedule=constant", "train.steps=60"}), 0,
         {"resume    parts/checkpoints/step_000024.h5 at step 24",
          "schedule  constant, 60 steps instead of 24, warmup_steps 1\n", "finished  60 steps"});
  EXPECT_EQ(steps("parts"), steps("whole"));
  expect_same(path("parts/checkpoints/step_000060.h5"), path("whole/checkpoints/step_000060.h5"));
  expect_same(path("parts/checkpoints/best.h5"), path("whole/checkpoints/best.h5"));
  Json record = json("parts/run.json");
  EXPECT_EQ(record["status"], "finished");
  EXPECT_EQ(record["commands"][1]["from_step"], 24);
  EXPECT_EQ(json("parts/summary.json")["steps"], 60);
  EXPECT_FALSE(json("parts/summary.json").contains("steps_before"));
  EXPECT_EQ(json("parts/summary.json")["val_loss"], json("whole/summary.json")["val_loss"]);
  const std::string config = slurp(path("parts/config.yaml"));
  EXPECT_NE(config.find("steps: 60\n"), std::string::npos);
  EXPECT_NE(config.find("warmup_steps: 1\n"), std::string::npos);
}

TEST_F(ContinueRun, ALongerRunThatIsStoppedGoesOn) {
  const auto longer = [&](const std::string& out, std::vector<std::string> more = {}) {
    more.insert(more.end(), {"train.schedule=constant", "train.steps=60"});
    return command(out, std::move(more));
  };
  ASSERT_EQ(run(longer("whole", {"train.warmup_steps=1"})).exit_code, 0);
  ASSERT_EQ(run(command("run", {"train.schedule=constant"})).exit_code, 0);
  ASSERT_TRUE(fs::exists(path("run/summary.json")));
  stop_at("step 28/60", longer("run"));
  EXPECT_EQ(json("run/run.json")["status"], "unfinished");
  EXPECT_FALSE(fs::exists(path("run/summary.json")));
  expect(command("run", {"train.schedule=constant"}), 2, {"train.steps is 24, but ", "steps are done"});
  expect(longer("run"), 0, {"finished  60 steps"});
  EXPECT_EQ(steps("run"), steps("whole"));
  EXPECT_NE(slurp(path("run/config.yaml")).find("warmup_steps: 1\n"), std::string::npos);
  EXPECT_EQ(json("run/run.json")["commands"].size(), 3u);
}

TEST_F(ContinueRun, AWsdRunIsLengthenedBeforeItsDecay) {
  const auto wsd = [&](const std::string& out, const std::string& steps, const std::string& resume = "auto") {
    return command(out, {"train.schedule=wsd", "train.warmup_steps=1", "train.decay_steps=8",
                         "train.steps=" + steps, "--resume", resume});
  };
  ASSERT_EQ(run(wsd("whole", "100")).exit_code, 0);
  stop_at("step  1/90", wsd("stopped", "90"));
  expect(wsd("stopped", "100"), 0, {"100 steps instead of 90, warmup_steps 1, decay_steps 8"});
  EXPECT_EQ(steps("stopped"), steps("whole"));
  expect_same(path("stopped/checkpoints/step_000100.h5"), path("whole/checkpoints/step_000100.h5"));

  ASSERT_EQ(run(wsd("ended", "24")).exit_code, 0);
  const auto before = metrics("ended");
  expect(wsd("ended", "100"), 2,
         {"a run of 24 steps (wsd) cannot become one of 100 (wsd): 24 are done, and of these step 17 would",
          "--resume CHECKPOINT with another train.out"});
  // The rate falls after step 16. Going on from there in place would lose what came after.
  const std::string older = "ended/checkpoints/step_000016.h5";
  expect(wsd("ended", "100", older), 2, {"is not the newest checkpoint of its run"});
  EXPECT_EQ(json("ended/run.json")["status"], "finished");
  EXPECT_EQ(metrics("ended"), before);
  expect(wsd("branch", "100", older), 0, {"at step 16"});
  expect_same_weights(path("branch/checkpoints/step_000100.h5"), path("whole/checkpoints/step_000100.h5"));
}

TEST_F(ContinueRun, ACooldownMayFollowAConstantRate) {
  ASSERT_EQ(run(command("run", {"train.schedule=constant"})).exit_code, 0);
  expect(command("run", {"train.schedule=wsd", "train.steps=32", "train.decay_steps=7"}), 0,
         {"finished  32 steps"});
  const std::vector<std::string> lines = steps("run");
  EXPECT_EQ(Json::parse(lines.at(23))["lr"], 1e-2);
  EXPECT_NEAR(Json::parse(lines.back())["lr"].get<double>(), 1e-3, 1e-12);
}

TEST_F(ContinueRun, ARunIsShortenedToWhatIsNotDone) {
  const auto constant = [&](const std::string& out, const std::string& steps) {
    return command(out, {"train.schedule=constant", "train.warmup_steps=1", "train.steps=" + steps});
  };
  ASSERT_EQ(run(constant("short", "60")).exit_code, 0);
  stop_at("step   1/120", constant("run", "120"));
  expect(constant("run", "60"), 0, {"60 steps instead of 120"});
  expect_same(path("run/checkpoints/step_000060.h5"), path("short/checkpoints/step_000060.h5"));
  EXPECT_EQ(metrics("run"), metrics("short"));
}

TEST_F(ContinueRun, WhatWouldChangeStepsThatAreDoneIsRefused) {
  ASSERT_EQ(run(command("run", {})).exit_code, 0);
  expect(command("run", {"train.steps=40"}), 2,
         {"a run of 24 steps (cosine) cannot become one of 40 (cosine): 24 are done, and of these step 3 "
          "would"});
  // Their first steps differ in the last bit only.
  expect(command("run", {"train.steps=40", "train.schedule=constant"}), 2,
         {"and of these step 3 would have had another learning rate, 0.01 instead of 0.009954"});
  expect(command("run", {"train.steps=40", "train.lr=3e-3"}), 2,
         {"train.lr: 0.003 / 0.01", "--resume CHECKPOINT"});
  EXPECT_EQ(json("run/run.json")["status"], "finished");
  EXPECT_TRUE(fs::exists(path("run/summary.json")));
}

TEST_F(ContinueRun, AForkKeepsTheOptimizerAndMayChangeTheSchedule) {
  ASSERT_EQ(run(command("run", {})).exit_code, 0);
  const std::string last = "run/checkpoints/step_000024.h5";
  const auto fork = [&](const std::string& out) {
    return command(out, {"--resume", last, "train.steps=80", "train.lr=5e-3", "train.schedule=linear",
                         "train.min_lr=0", "train.clip=0.5"});
  };
  expect(fork("whole"), 0, {"resume    " + last + " at step 24", "linear, 80 steps instead of 24"});
  stop_at("step 25/80", fork("parts"));
  expect(fork("parts"), 0, {"resume    parts/checkpoints/step_0000"});
  EXPECT_EQ(metrics("parts"), metrics("whole"));
  expect_same(path("parts/checkpoints/step_000080.h5"), path("whole/checkpoints/step_000080.h5"));
  EXPECT_TRUE(fs::exists(path("whole/checkpoints/best.h5")));

  const Config config = parse_config(parse_yaml_file(path("whole/config.yaml")));
  const Json first = Json::parse(steps("whole").front());
  EXPECT_EQ(first["step"], 25);
  EXPECT_EQ(first["lr"], learning_rate(config.train, 24));
  EXPECT_EQ(config.train.lr, 5e-3);
  EXPECT_EQ(json("whole/summary.json")["steps"], 80);
  EXPECT_EQ(json("whole/summary.json")["steps_before"], 24);
  EXPECT_EQ(json("whole/run.json")["began_from"], fs::weakly_canonical(path(last)).string());
  EXPECT_EQ(json("run/run.json")["status"], "finished");

  // A group's rate and decay are free, how it follows the gradients is not.
  const auto fork_grouped = [&](const std::string& out, const std::string& group) {
    return command(out, {"--resume", "grouped/checkpoints/step_000008.h5", "train.steps=12",
                         "train.groups=[{names: ['*'], " + group + "}]"});
  };
  expect(command("grouped", {"train.steps=8", "train.groups=[{names: ['*']}]"}), 0, {"finished  8 steps"});
  expect(fork_grouped("free", "lr_factor: 0.5, weight_decay: 0"), 0, {"finished  12 steps"});
  expect(fork_grouped("other", "eps: 1e-5"), 2, {"train.groups: "});

  // Its folder is no other run's, and the model and the data stay.
  const std::string other = "run/checkpoints/step_000016.h5";
  expect(command("whole", {"--resume", other, "train.steps=50"}), 2,
         {"whole holds a run that did not begin from " + other});
  expect(command("new", {"--resume", last, "train.steps=40", "model.dim=64"}), 2, {"model.dim: 64 / 32"});
  expect(command("new", {"--resume", last, "train.steps=40", "train.batch_size=8"}), 2,
         {"train.batch_size: 8 / 4"});
  expect(command("new", {"--resume", last, "train.steps=20"}), 2,
         {"train.steps is 20, but 24 steps are done"});
  EXPECT_FALSE(fs::exists(path("new/run.json")));
}

TEST_F(ContinueRun, LearnedPatternsKeepTheirClock) {
  const std::string pattern =
      "pattern={learned_layout: {budget: 0.6, warmup: 0.2, anneal: 0.4, harden: 0.6, explore: 0.3}}";
  ASSERT_EQ(run(command("run", {pattern, "train.schedule=constant"})).exit_code, 0);
  const auto longer = [&](const std::string& out, const std::string& step) {
    return command(out, {pattern, "train.schedule=constant", "train.steps=30", "--resume",
                         fmt::format("run/checkpoints/step_0000{}.h5", step)});
  };
  expect(command("run", {pattern, "train.schedule=constant", "train.steps=30"}), 2,
         {"the phases in which its pattern is learned are shares of train.steps", "--resume CHECKPOINT"});
  expect(longer("early", "08"), 2, {"are shares of train.steps", "keep train.steps"});
  expect(longer("fork", "24"), 0, {"finished  30 steps"});  // hardened: it has no phases left
}

}  // namespace
}  // namespace filigree
