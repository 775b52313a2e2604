// What a run on a GPU will take, planned without one.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/backend.h"
#include "core/build_info.h"
#include "tests/temporary_folder.h"
#include "train/run/matrix_rate.h"
#include "train/run/memory_plan.h"
#include "train/run/run_setup.h"

namespace filigree {
namespace {

constexpr double kMiB = 1 << 20;

class MemoryPlanTest : public testing::Test {
 protected:
  MemoryPlanTest() {
    std::ofstream text(folder_.path() / "text.txt"), more(folder_.path() / "more.txt");
    for (int i = 0; i < 20000; ++i) {
      text << "a line of text " << i << '\n';
      more << "another line " << i << '\n';
    }
  }

  RunSetup set_up(const std::string& pattern, const std::string& model, std::int64_t seq_len,
                  std::int64_t batch) {
    RunSetup setup = set_up_run(parse_config(parse_yaml(
        fmt::format(
            "pattern: {}\nmodel: {}\ndata: {{train: [{}], val: [{}], seq_len: {}}}\n"
            "device: cpu\ntrain: {{steps: 40, batch_size: {}, micro_batch_size: {}, lr: 1e-3, out: {}}}\n",
            pattern, model, (folder_.path() / "text.txt").string(), (folder_.path() / "more.txt").string(),
            seq_len, batch, batch, (folder_.path() / "run").string()),
        "config")));
    setup.config.device = DeviceChoice::cuda;
    setup.config.precision = Precision::bf16;
    return setup;
  }
  static double planned_mib(const RunSetup& setup, bool evaluates = true) {
    const MemoryPlan plan =
        plan_memory(setup.config, setup.patterns, evaluates ? &*setup.data.validation : nullptr);
    EXPECT_EQ(plan.process, plan.tensors + cuda::kProductWorkspaceBytes);
    return static_cast<double>(plan.process) / kMiB;
  }

  TemporaryFolder folder_;
};

constexpr const char* kSmall = "{type: decoder, preset: llama, dim: 128, n_layers: 2, n_heads: 4}";

// Its allocator took 5,208 MiB; the graph, and the evaluation beside it, were not in the plan of
// 4,432 MiB.
TEST_F(MemoryPlanTest, IsWhatARunTookOnAGpu) {
  const RunSetup setup =
      set_up("full",
             "{type: decoder, preset: llama, dim: 512, n_layers: 8, n_heads: 8, dropout: 0.1, "
             "vocab_size: 4096, tied_embeddings: false}",
             4096, 8);
  EXPECT_EQ(planned_mib(setup), 5208 + 64);
}

TEST_F(MemoryPlanTest, OfAGpuCountsTheGraphBesideEvaluations) {
  RunSetup setup = set_up("full", kSmall, 1024, 8);
  const double all = planned_mib(setup), unevaluated = planned_mib(setup, false);
  // An evaluation's activations lie beside the graph's: two of the widest, which are the feed-forward
  // layers'.
  const double wide = 8.0 * 1024 * 384 * 2 / kMiB;
  EXPECT_GT(all, unevaluated + 2 * wide);
  setup.config.cuda_graph = false;
  EXPECT_LT(planned_mib(setup), all) << "without a graph they take the place of the steps'";
}

TEST_F(MemoryPlanTest, IsTheSameAgainAndLeavesNothing) {
  const RunSetup setup = set_up("{learned_layout: {budget: 0.5}}", kSmall, 512, 4);
  Allocator& meta = allocator(Device::meta_cuda());
  const double first = planned_mib(setup);
  EXPECT_EQ(meta.statistics().reserved, 0);
  EXPECT_EQ(planned_mib(setup), first);
}

// A small model's first run on a machine measures the rate of its products, which takes more than training.
TEST_F(MemoryPlanTest, MeasuringTheMatrixRateIsNoPartOfTheRun) {
  const char* const before = std::getenv("XDG_CACHE_HOME");
  const std::string kept = before ? before : "";
  ::setenv("XDG_CACHE_HOME", folder_.path().c_str(), 1);
  set_up("full", kSmall, 64, 2);
  const std::int64_t measured = peak_resident_bytes();
  EXPECT_TRUE(std::filesystem::exists(matrix_rate_file()));
  set_up("full", kSmall, 64, 2);
  const std::int64_t known = peak_resident_bytes();
  before ? ::setenv("XDG_CACHE_HOME", kept.c_str(), 1) : ::unsetenv("XDG_CACHE_HOME");
  EXPECT_NEAR(static_cast<double>(measured) / kMiB, static_cast<double>(known) / kMiB, 8);
}

TEST_F(MemoryPlanTest, OfLearnedPatternsCountsTheirGraphOnceHardened) {
  RunSetup setup = set_up("{learned_layout: {budget: 0.5}}", kSmall, 1024, 8);
  const double hardens = planned_mib(setup);
  setup.config.cuda_graph = false;
  EXPECT_GT(hardens, planned_mib(setup));
}

// It ended in a segmentation fault: room on the host for the batches of a planned run could not be had.
TEST_F(MemoryPlanTest, OfABatchThatFitsNowhereIsJustLarge) {
  const RunSetup setup = set_up("full", kSmall, 64, 50'000'000);
  EXPECT_GT(static_cast<double>(setup.memory.process) / kMiB, 1e6);
}

}  // namespace
}  // namespace filigree
