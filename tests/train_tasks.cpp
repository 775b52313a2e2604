// Generated tasks in whole runs: accuracy is measured, learnt, logged and survives an interruption.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/gradcheck.h"
#include "tests/run_fixture.h"
#include "train/config/layouts.h"
#include "train/evaluate/evaluate.h"
#include "train/run/run_setup.h"

namespace filigree {
namespace {

Config task_config(const std::string& task, std::int64_t seq_len, const std::string& type = "decoder") {
  return parse_config(parse_yaml(fmt::format("tile: 16\n"
                                             "seed: {}\n"
                                             "model: {{type: {}, dim: 32, n_layers: 1, n_heads: 2}}\n"
                                             "data: {{task: {}, seq_len: {}}}\n"
                                             "train: {{steps: 10, batch_size: 4, lr: 1e-3}}\n",
                                             test_seed() % 1000, type, task, seq_len),
                                 "task"));
}

// By all logits and one position after the other.
Evaluation score_plainly(const Transformer& model, const RunSetup& setup) {
  LoaderOptions options = loader_options(setup.config);
  options.shuffle = false;
  options.single_pass = true;
  Loader loader(*setup.data.validation, options);
  Evaluation result;
  std::int64_t right = 0;
  const GeneratedTask& task = setup.data.validation->generated()->task();
  for (const std::string& name : task.group_names()) result.groups.push_back({name});
  while (const auto batch = loader.next()) {
    const ModelInput input = model_input(*batch, Device::cpu());
    const Tensor logits = model.logits(input, {}).value();
    const std::int64_t classes = logits.dim(-1), per_sample = batch->targets.numel() / batch->inputs.dim(0);
    for (std::int64_t i = 0; i < batch->targets.numel(); ++i) {
      const auto target = static_cast<std::int64_t>(batch->targets.item(i));
      if (target == ops::kIgnoreIndex) continue;
      const float* row = logits.data<float>() + i * classes;
      double sum = 0;
      for (std::int64_t c = 0; c < classes; ++c) sum += std::exp(static_cast<double>(row[c]));
      result.loss += std::log(sum) - row[target];
      const bool is_right = std::max_element(row, row + classes) == row + target;
      right += is_right;
      ++result.targets;
      if (result.groups.empty()) continue;
      const std::int32_t sample = batch->groups[static_cast<std::size_t>(i / per_sample)];
      const auto group = task.target_group(sample, static_cast<std::int32_t>(batch->inputs.item(i)));
      ++result.groups[static_cast<std::size_t>(group)].targets;
      result.groups[static_cast<std::size_t>(group)].right += is_right;
    }
  }
  result.loss /= static_cast<double>(result.targets);
  result.accuracy = static_cast<double>(right) / static_cast<double>(result.targets);
  return result;
}

TEST(TaskRuns, AccuracyAndLossAreThoseOfAllLogits) {
  const struct {
    const char* text;
    std::int64_t seq_len;
    const char* type = "decoder";
  } tasks[] = {
      {"{mqar: {vocab: 16, pairs: 4, val_samples: 50}}", 32},
      {"{planted: {values: 2, val_samples: 7, rules: [{offset: 5}, {stride: 8}, {sink: 3}]}}", 40},
      {"{passkey: {val_samples: 9, depths: 3, keys: 1, digits: 2}}", 128},
      {"{listops: {val_samples: 30, min_length: 8, max_length: 40}}", 40, "encoder_classifier"},
  };
  for (const auto& [text, seq_len, type] : tasks) {
    const RunSetup setup = set_up_run(task_config(text, seq_len, type));
    const Transformer model(setup.config.model, test_seed(), Device::cpu(), DType::f32, DType::f32,
                            setup.patterns);
    const auto got = evaluate(model, setup.config, *setup.data.validation, 0);
    const Evaluation expected = score_plainly(model, setup);
    ASSERT_TRUE(got && got->accuracy) << text;
    EXPECT_EQ(got->targets, expected.targets) << text;
    EXPECT_NEAR(got->loss, expected.loss, 1e-4) << text;
    EXPECT_FALSE(got->bits_per_byte.has_value());
    // Two logits may lie so close that sums in another order swap them.
    EXPECT_NEAR(*got->accuracy, *expected.accuracy, 1.5 / static_cast<double>(expected.targets)) << text;
    const bool told_apart = std::string(type) == "decoder";
    ASSERT_EQ(got->groups.size(), told_apart ? expected.groups.size() : 0) << text;
    for (std::size_t i = 0; i < got->groups.size(); ++i) {
      EXPECT_EQ(got->groups[i].name, expected.groups[i].name);
      EXPECT_EQ(got->groups[i].targets, expected.groups[i].targets);
      EXPECT_NEAR(static_cast<double>(got->groups[i].right), static_cast<double>(expected.groups[i].right),
                  1);
    }
  }
}

constexpr const char* kPlanted = R"(
tile: 16
model: {positions: rope, tied_embeddings: false, dim: 32, n_layers: 1, n_heads: 2}
data:
  task: {planted: {values: 4, rules: [{offset: 3}, {sink: 1}], val_samples: 40}}
  seq_len: 32
train: {steps: 200, batch_size: 16, lr: 1e-2, eval_interval: 100, eval_batches: 0, log_interval: 50, out: planted}
checkpoint: {interval: 50}
)";

TEST_F(RunTest, ATaskIsLearntAndItsAccuracyTold) {
  write("planted.yaml", kPlanted);
  const Outcome outcome = run({"train", "planted.yaml"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("planted: 40 validation samples of 32 tokens"), std::string::npos);
  const auto last = nlohmann::json::parse(metrics("planted").back());
  const double accuracy = last.at("val_accuracy");
  EXPECT_GT(accuracy, 0.95) << outcome.output;
  EXPECT_GT(last.at("val_accuracy_of").at("{offset: 3}").get<double>(), 0.9);
  EXPECT_GT(last.at("val_accuracy_of").at("{sink: 1}").get<double>(), 0.9);
  EXPECT_NE(outcome.output.find(fmt::format("accuracy {:.1f} %", 100 * accuracy)), std::string::npos);
  const Outcome evaluated = run({"eval", "planted"});
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.output;
  EXPECT_NE(evaluated.output.find("accuracy "), std::string::npos) << evaluated.output;
  EXPECT_NE(evaluated.output.find("{offset: 3}"), std::string::npos) << evaluated.output;
  const Outcome text = run({"eval", "planted", "--data", "text"});
  EXPECT_EQ(text.exit_code, 3) << text.output;
  EXPECT_NE(text.output.find("the model was trained with 'task planted'"), std::string::npos) << text.output;
  const Outcome generated = run({"generate", "planted", "--prompt", "a"});
  EXPECT_EQ(generated.exit_code, 2) << generated.output;
  EXPECT_NE(generated.output.find("trained on the task planted, which has no text"), std::string::npos);
}

TEST_F(RunTest, ATaskResumesBitwise) {
  write("planted.yaml", kPlanted);
  const std::vector<std::string> command = {"train", "planted.yaml", "train.steps=60",
                                            "checkpoint.interval=20", "data.task.planted.samples=100"};
  ASSERT_EQ(run(command).exit_code, 0);
  auto again = command;
  again.push_back("train.out=again");
  Process process = start(again);
  ASSERT_TRUE(process.wait_for("step  1/60")) << process.output();
  process.send(SIGTERM);
  process.finish();
  ASSERT_EQ(run(again).exit_code, 0);
  EXPECT_EQ(metrics("again"), metrics("planted"));
  // Other samples are other data.
  auto other = again;
  other.insert(other.end(), {"seed=7", "train.out=other", "--resume", "planted"});
  EXPECT_EQ(run(other).exit_code, 2);
}

TEST_F(RunTest, AClassifierLearnsATask) {
  write("listops.yaml", R"(
tile: 16
model: {type: encoder_classifier, dim: 32, n_layers: 1, n_heads: 2}
data:
  task: {listops: {max_depth: 2, max_args: 2, min_length: 4, max_length: 4, val_samples: 100}}
  seq_len: 8
train: {steps: 300, batch_size: 32, lr: 1e-2, eval_interval: 0, eval_batches: 0, log_interval: 100, out: listops}
)");
  const Outcome outcome = run({"train", "listops.yaml"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_GT(nlohmann::json::parse(metrics("listops").back()).at("val_accuracy").get<double>(), 0.5)
      << outcome.output;
}

}  // namespace
}  // namespace filigree
