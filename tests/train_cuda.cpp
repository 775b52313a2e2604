// Whole runs on a GPU: repeatability, resume, the CPU's loss curve, and what goes wrong.
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/build_info.h"
#include "tests/run_fixture.h"

namespace filigree {
namespace {

class CudaRunTest : public RunTest {
 protected:
  void SetUp() override {
    if (const std::string why = cuda_unavailable(); !why.empty()) GTEST_SKIP() << "no GPU: " << why;
  }

  // The fixture's config with what a GPU computes: head dim 32, tiles of 32.
  Outcome train(std::vector<std::string> more, const std::string& precision = "bf16") {
    std::vector<std::string> arguments = {"train",   "config.yaml",  "device=cuda",
                                          "tile=32", "model.dim=64", "precision=" + precision};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }

  std::vector<double> losses(const std::string& run) const {
    std::vector<double> values;
    for (const std::string& line : metrics(run)) {
      const auto j = nlohmann::json::parse(line);
      if (j.contains("loss")) values.push_back(j.at("loss"));
    }
    return values;
  }
};

TEST_F(CudaRunTest, TwoRunsAreBitwiseEqualWithAndWithoutAGraph) {
  for (const char* precision : {"bf16", "fp32"}) {
    const std::string a = std::string(precision) + "_a", b = std::string(precision) + "_b",
                      eager = std::string(precision) + "_eager";
    const Outcome outcome = train({"train.out=" + a}, precision);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    ASSERT_EQ(train({"train.out=" + b}, precision).exit_code, 0);
    ASSERT_EQ(train({"train.out=" + eager, "cuda_graph=false"}, precision).exit_code, 0);
    ASSERT_EQ(losses(a).size(), 24u);
    EXPECT_LT(losses(a).back(), 0.8 * losses(a).front());
    for (const std::string& other : {b, eager}) {
      EXPECT_EQ(metrics(other), metrics(a)) << other;
      expect_same(path(other + "/checkpoints/step_000024.h5"), path(a + "/checkpoints/step_000024.h5"));
    }
  }
}

TEST_F(CudaRunTest, ResumeIsBitwiseTheUninterruptedRun) {
  ASSERT_EQ(train({}).exit_code, 0);
  for (const char* line : {"step  1/24", "resume "}) {
    Process process =
        start({"train", "config.yaml", "device=cuda", "tile=32", "model.dim=64", "train.out=stopped"});
    ASSERT_TRUE(process.wait_for(line)) << process.output();
    process.send(SIGTERM);
    const Outcome stopped = process.finish();
    if (stopped.exit_code == 0) break;  // it was faster than the signal
    ASSERT_EQ(stopped.exit_code, 75) << stopped.output;
  }
  const Outcome outcome = train({"train.out=stopped"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(metrics("stopped"), metrics("full"));
  expect_same(path("stopped/checkpoints/step_000024.h5"), path("full/checkpoints/step_000024.h5"));
  expect_same(path("stopped/checkpoints/best.h5"), path("full/checkpoints/best.h5"));
}

// Warm-up, learning and, but for the router, the hardened end, in 24 steps.
TEST_F(CudaRunTest, LearnedPatternsRepeatResumeAndFollowTheCpu) {
  const std::pair<const char*, const char*> patterns[] = {
      {"gated",
       "pattern={heads: [{count: 1, pattern: {local: {window: 20}}}, {count: 1, pattern: {learned_layout: "
       "{budget: "
       "0.6, warmup: 0.2, anneal: 0.4, harden: 0.6, explore: 0.3, refresh: 3}}}]}"},
      {"span", "pattern={learned_span: {budget: 0.7, warmup: 0.2, anneal: 0.4, harden: 0.6}}"},
      {"routed", "pattern={block_topk: {topk: 1, sinks: 1, warmup: 0.2}}"}};
  for (const auto& [name, pattern] : patterns) {
    const std::string a = name, b = a + "_b", eager = a + "_eager", resumed = a + "_resumed";
    const std::vector<std::string> common = {pattern, "data.seq_len=160"};
    const auto run_as = [&](const std::string& out, std::vector<std::string> more,
                            const std::string& precision) {
      more.insert(more.end(), common.begin(), common.end());
      more.push_back("train.out=" + out);
      return train(more, precision);
    };
    const Outcome outcome = run_as(a, {}, "bf16");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    ASSERT_EQ(run_as(b, {}, "bf16").exit_code, 0);
    ASSERT_EQ(run_as(eager, {"cuda_graph=false"}, "bf16").exit_code, 0);
    const std::string middle = path(a + "/checkpoints/step_000016.h5").string();
    ASSERT_EQ(run_as(resumed, {"--resume", middle}, "bf16").exit_code, 0);
    const std::string last = "/checkpoints/step_000024.h5";
    for (const std::string& other : {b, eager, resumed}) expect_same(path(other + last), path(a + last));
    EXPECT_EQ(metrics(b), metrics(a));

    // At the fixture's rate, spans jump: rounding alone moves a loss by 1e-3 in one text of twenty.
    ASSERT_EQ(run_as(a + "_fp32", {"train.lr=2e-3"}, "fp32").exit_code, 0);
    std::vector<std::string> cpu = {"train",        "config.yaml",   "tile=32",
                                    "model.dim=64", "train.lr=2e-3", "train.out=" + a + "_cpu"};
    cpu.insert(cpu.end(), common.begin(), common.end());
    ASSERT_EQ(run(cpu).exit_code, 0);
    const auto there = losses(a + "_fp32"), here = losses(a + "_cpu");
    ASSERT_EQ(there.size(), here.size());
    for (std::size_t i = 0; i < there.size(); ++i)
      EXPECT_NEAR(there[i], here[i], 1e-3 * here[i]) << name << ", step " << i + 1;
    const Outcome eval = run({"eval", a}), text = run({"generate", a, "--prompt", "tile ", "--tokens", "5"});
    EXPECT_EQ(eval.exit_code, 0) << eval.output;
    EXPECT_EQ(text.exit_code, 0) << text.output;
  }
}

TEST_F(CudaRunTest, SlowLossCurveIsTheCpus) {
  const std::vector<std::string> steps = {"train.steps=200", "train.warmup_steps=20", "train.eval_interval=0",
                                          "train.lr=2e-3"};
  std::vector<std::string> gpu = steps,
                           cpu = {"train", "config.yaml", "tile=32", "model.dim=64", "train.out=cpu"};
  gpu.push_back("train.out=gpu");
  cpu.insert(cpu.end(), steps.begin(), steps.end());
  const Outcome outcome = train(gpu, "fp32");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  ASSERT_EQ(run(cpu).exit_code, 0);
  const auto a = losses("gpu"), b = losses("cpu");
  ASSERT_EQ(a.size(), 200u);
  ASSERT_EQ(b.size(), 200u);
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-3 * b[i]) << "step " << i + 1;
}

TEST_F(CudaRunTest, EveryKindOfModelTrainsEvaluatesAndGenerates) {
  const std::vector<std::vector<std::string>> kinds = {
      {"model.norm=rms_norm", "model.activation=swiglu", "model.positions=rope", "model.n_kv_heads=1",
       "model.bias=false"},
      {"model.positions=alibi", "model.activation=gelu", "model.tied_embeddings=false"},
      {"model.activation=silu", "model.positions=none", "model.activation_checkpointing=true"}};
  for (std::size_t i = 0; i < kinds.size(); ++i)
    for (const char* precision : {"bf16", "fp32"}) {
      const std::string out = fmt::format("kind_{}_{}", i, precision);
      std::vector<std::string> arguments = kinds[i];
      arguments.push_back("train.out=" + out);
      const Outcome outcome = train(arguments, precision);
      ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
      EXPECT_LT(losses(out).back(), 0.85 * losses(out).front()) << out;
      const Outcome there = run({"eval", out}), here = run({"eval", out, "--device", "cpu"});
      EXPECT_EQ(there.exit_code, 0) << there.output;
      EXPECT_EQ(here.exit_code, 0) << here.output;
      EXPECT_EQ(run({"generate", out, "--prompt", "tile ", "--tokens", "5"}).exit_code, 0);
    }
}

TEST_F(CudaRunTest, NotFiniteStopsBeforeTheWeightsChange) {
  const Outcome outcome = train({"train.lr=1e20", "train.min_lr=1e19", "train.clip=0", "train.optimizer=sgd",
                                 "train.warmup_steps=0", "train.out=wild", "checkpoint.interval=1"});
  EXPECT_EQ(outcome.exit_code, 4) << outcome.output;
  EXPECT_NE(outcome.output.find("is not finite, first in "), std::string::npos) << outcome.output;
}

TEST_F(CudaRunTest, PredictedMemoryIsThePeak) {
  const Outcome outcome =
      train({"model.dim=512", "model.n_heads=8", "model.n_layers=4", "data.seq_len=2048",
             "train.micro_batch_size=4", "train.steps=4", "train.warmup_steps=1", "train.out=big"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const std::size_t at = outcome.output.find("memory    peak ");
  ASSERT_NE(at, std::string::npos) << outcome.output;
  double peak = 0, expected = 0;
  ASSERT_EQ(
      std::sscanf(outcome.output.c_str() + at, "memory    peak %lf MiB, expected %lf MiB", &peak, &expected),
      2);
  EXPECT_NEAR(expected, peak, 0.05 * peak);
}

TEST_F(CudaRunTest, TooMuchIsRefusedWithTheNumbers) {
  const Outcome outcome =
      train({"data.seq_len=4096", "train.batch_size=100000", "train.micro_batch_size=100000"});
  EXPECT_EQ(outcome.exit_code, 6) << outcome.output;
  try {
    Tensor::empty({std::int64_t{1} << 43}, DType::f32, Device::cuda());
    ADD_FAILURE() << "32 TiB were to be had";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::out_of_memory);
    for (const char* part : {"cuda:0", "MiB", "peak", "f32 [8796093022208]"})
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    EXPECT_NE(e.hint().find("micro_batch_size"), std::string::npos);
  }
}

TEST_F(RunTest, WithoutAGpuCudaIsRefusedAndAutoIsTheCpu) {
  if (cuda_unavailable().empty()) GTEST_SKIP() << "this machine has a GPU";
  const Outcome refused = run({"train", "config.yaml", "device=cuda"});
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  EXPECT_NE(refused.output.find("device: cuda cannot be used: " + cuda_unavailable()), std::string::npos)
      << refused.output;
  EXPECT_NE(refused.output.find("use device: cpu"), std::string::npos) << refused.output;
  const Outcome outcome =
      run({"train", "config.yaml", "device=auto", "train.steps=2", "train.warmup_steps=0"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("on the cpu"), std::string::npos) << outcome.output;
}

TEST_F(RunTest, Bf16NeedsCuda) {
  const Outcome refused = run({"train", "config.yaml", "precision=bf16"});
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  EXPECT_NE(refused.output.find("needs device: cuda"), std::string::npos) << refused.output;
}

}  // namespace
}  // namespace filigree
