// Evaluation at other lengths than that of training: train.eval_lengths, and overrides of filigree eval.
#include <nlohmann/json.hpp>

#include "tests/run_fixture.h"
#include "train/config/config.h"

namespace filigree {
namespace {

using Json = nlohmann::json;

class LengthRun : public RunTest {
 protected:
  LengthRun() { write("task.yaml", kTask); }

  Json by_length(const std::string& run) const {
    return Json::parse(slurp(path(run) / "summary.json")).at("val_by_length");
  }
  Json evaluated(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "eval");
    arguments.emplace_back("--json");
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return Json::parse(outcome.output, nullptr, false);
  }
  void expect_refusal(const std::vector<std::string>& arguments, const std::vector<std::string>& parts) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.output;
    for (const std::string& part : parts)
      EXPECT_NE(outcome.output.find(part), std::string::npos) << part << "\n" << outcome.output;
  }

  static constexpr const char* kTask = R"(
tile: 16
model: {positions: rope, tied_embeddings: false, dim: 32, n_layers: 1, n_heads: 2}
data:
  task: {planted: {values: 4, rules: [{offset: 3}, {sink: 1}], val_samples: 40}}
  seq_len: 64
train: {steps: 40, batch_size: 8, lr: 1e-2, eval_interval: 0, eval_batches: 0, eval_lengths: [128, 16, 64], out: run}
checkpoint: {interval: 0}
)";
};

TEST_F(LengthRun, TheLastEvaluationIsMadeAtEachLength) {
  const Outcome outcome = run({"train", "task.yaml"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("accuracy, % at tokens            128      16      64\n{offset: 3}"),
            std::string::npos)
      << outcome.output;
  const Json summary = Json::parse(slurp(path("run/summary.json"))), list = by_length("run");
  ASSERT_EQ(list.size(), 3u);
  // At the length of training it is the ordinary evaluation; at others, what eval finds with that length.
  EXPECT_EQ(list[2].at("length"), 64);
  EXPECT_EQ(list[2].at("accuracy"), summary.at("val_accuracy"));
  EXPECT_EQ(list[2].at("targets"), summary.at("val_targets"));
  EXPECT_EQ(list[2].at("accuracy_of"), summary.at("val_accuracy_of"));
  for (const Json& there : list) {
    const int length = there.at("length");
    const Json alone = evaluated({"run/checkpoints/step_000040.h5", fmt::format("data.seq_len={}", length)});
    for (const char* key : {"targets", "loss", "accuracy", "accuracy_of"})
      EXPECT_EQ(there.at(key), alone.at(key)) << length << " " << key;
    EXPECT_FALSE(alone.contains("by_length")) << "nobody asked for it";
  }
  EXPECT_GT(list[0].at("targets"), list[1].at("targets")) << "longer samples ask more";
  const Json asked = evaluated({"run/checkpoints/step_000040.h5", "train.eval_lengths=[16]"});
  ASSERT_EQ(asked.at("by_length").size(), 1u);
  EXPECT_EQ(asked.at("by_length")[0], list[1]);
  EXPECT_EQ(evaluated({"run/checkpoints/step_000040.h5"}).at("by_length"), list) << "those of the run";
}

// Every pattern is laid out anew for each length; what is learned, too.
TEST_F(LengthRun, PatternsReachTheOtherLengths) {
  for (const char* pattern :
       {"{local: {window: 4}}", "{bigbird: {block: 16, window: 1, global: 1, random: 1}}",
        "{learned_layout: {budget: 0.8, warmup: 0.1, anneal: 0.3, harden: 0.5}}",
        "{learned_span: {budget: 0.8, warmup: 0.1, anneal: 0.3, harden: 0.5}}",
        "{block_topk: {topk: 1, sinks: 1, warmup: 0.2}}"}) {
    const Outcome outcome =
        run({"train", "task.yaml", fmt::format("pattern={}", pattern), "--overwrite", "train.steps=120"});
    ASSERT_EQ(outcome.exit_code, 0) << pattern << outcome.output;
    // The answer three tokens back is within every one of them, at every length.
    for (const Json& there : by_length("run"))
      EXPECT_GT(there.at("accuracy_of").at("{offset: 3}"), 0.8) << pattern << there << outcome.output;
    const Json layers = Json::parse(slurp(path("run/summary.json"))).at("layers");
    EXPECT_EQ(layers[0].at("dense_tiles"), 2 * 10)
        << pattern << ": work is counted at the length of training";
  }
}

TEST_F(LengthRun, WhatCannotBeLongerIsRefused) {
  expect_refusal({"train", "task.yaml", "model.positions=learned"},
                 {"train.eval_lengths: at 128 tokens: learned positions end at model.max_seq_len, 64",
                  "remove this length"});
  ASSERT_EQ(run({"explain", "task.yaml", "--dump", "layout.h5"}).exit_code, 0);
  expect_refusal({"train", "task.yaml", "pattern={block: {file: layout.h5}}"},
                 {"task.yaml:7:95: train.eval_lengths:", "layout.h5 was made for sequence length 64",
                  "the model has 128"});
  EXPECT_FALSE(fs::exists(path("run")));

  const std::vector<std::string> train = {"train", "task.yaml", "pattern={block: {file: layout.h5}}",
                                          "train.eval_lengths=null", "model.positions=learned"};
  ASSERT_EQ(run(train).exit_code, 0);
  expect_refusal({"eval", "run", "data.seq_len=32"},
                 {"run/checkpoints/best.h5: config", "layout.h5 was made for"});
  expect_refusal({"eval", "run", "data.seq_len=128"},
                 {"model.max_seq_len must be at least data.seq_len (128)"});
  expect_refusal({"eval", "run", "data.seq_len=4"}, {"planted", "data.seq_len is 4"});
  expect_refusal({"eval", "run", "train.lr=1"}, {"eval cannot override 'train.lr'", "data.seq_len"});
  expect_refusal({"eval", "run", "data.seqlen=64"}, {"unknown key 'data.seqlen'", "seq_len"});
  expect_refusal({"eval", "run", "64"}, {"eval cannot override '64'"});
  expect_refusal({"eval", "run", "train.eval_lengths=[64, 32]"},
                 {"train.eval_lengths: run/checkpoints", "layout.h5 was made for"});
}

TEST_F(LengthRun, EvalTakesOtherData) {
  ASSERT_EQ(run({"train", "task.yaml"}).exit_code, 0);
  const auto targets = [&](const char* task) { return evaluated({"run", task}).at("targets").get<int>(); };
  const int few = targets("data.task.planted.val_samples=7"),
            all = targets("data.task.planted.val_samples=40");
  EXPECT_GT(few, 0);
  EXPECT_LT(few, all);
  EXPECT_EQ(evaluated({"run"}).at("targets"), all);
  const Outcome other = run({"eval", "run", "data.task={induction: {vocab: 8}}"});
  EXPECT_EQ(other.exit_code, 3) << other.output;
  EXPECT_NE(other.output.find("'task induction', the model was trained with 'task planted'"),
            std::string::npos);
  // Text: the same loss as over --data of the same files.
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=8"}).exit_code, 0);
  EXPECT_EQ(evaluated({"full", "data.val=[text/1.txt]", "data.val_fraction=null"}).at("loss"),
            evaluated({"full", "--data", "text/1.txt"}).at("loss"));
}

}  // namespace
}  // namespace filigree
