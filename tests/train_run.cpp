// Whole runs: the trainer and the binary as a user starts it.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "tests/run_fixture.h"

namespace filigree {
namespace {

// Which takes more than 200 MB of a process: it is loaded when a GPU multiplies.
TEST(Binary, DoesNotNeedCublasToStart) {
  const std::string binary = read_file(FILIGREE_BINARY), name = "libcublasLt.so.";
  for (std::size_t at = binary.find(name); at != binary.npos; at = binary.find(name, at + 1))
    EXPECT_FALSE(std::isdigit(static_cast<unsigned char>(binary[at + name.size()])))
        << "linked with " << binary.substr(at, name.size() + 2);
}

TEST_F(RunTest, LearnsAndLeavesItsFiles) {
  const Outcome outcome = run({"train", "config.yaml"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  for (const char* part : {"expected peak", "FLOP per token", "of full attention's tiles", "step  1/24",
                           "tok/s", "% of matrix rate", "data wait", "ETA", "bigram entropy"})
    EXPECT_NE(outcome.output.find(part), std::string::npos) << part << "\n" << outcome.output;
  const auto lines = metrics("full");
  ASSERT_EQ(lines.size(), 24u + 3u);
  const auto first = nlohmann::json::parse(lines.front()),
             last = nlohmann::json::parse(lines[lines.size() - 2]);
  EXPECT_LT(last.at("loss").get<double>(), 0.8 * first.at("loss").get<double>());
  EXPECT_TRUE(fs::exists(path("full/config.yaml")));
  EXPECT_TRUE(fs::exists(path("full/checkpoints/best.h5")));
  EXPECT_TRUE(fs::exists(path("full/checkpoints/step_000024.h5")));
  EXPECT_TRUE(fs::exists(path("full/checkpoints/step_000016.h5")));
  EXPECT_FALSE(fs::exists(path("full/checkpoints/step_000008.h5"))) << "keep: 2";
  // The resolved config repeats the run.
  const Outcome again = run({"train", "full/config.yaml", "train.out=again"});
  ASSERT_EQ(again.exit_code, 0) << again.output;
  EXPECT_EQ(metrics("again"), lines);
}

TEST_F(RunTest, TheModelIsOneLineAndATableInTheDryRun) {
  const Outcome plan = run({"train", "config.yaml", "train.steps=1", "--dry-run"});
  const Outcome real = run({"train", "config.yaml", "train.steps=1"});
  const std::string line = "\nmodel     decoder, 2 layers of 2 heads of dimension 16, width 32: ";
  const std::string table = "\nblocks.1.attention.qkv.weight";
  for (const Outcome* outcome : {&plan, &real})
    EXPECT_NE(outcome->output.find(line), std::string::npos) << outcome->output;
  EXPECT_NE(plan.output.find(table), std::string::npos) << plan.output;
  EXPECT_EQ(real.output.find(table), std::string::npos) << real.output;
}

TEST_F(RunTest, OneAndThreeThreadsGiveTheSameBits) {
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=6", "threads=1", "train.out=one"}).exit_code, 0);
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=6", "threads=3", "train.out=three"}).exit_code, 0);
  EXPECT_EQ(metrics("one"), metrics("three"));
  expect_same(path("one/checkpoints/step_000006.h5"), path("three/checkpoints/step_000006.h5"));
}

TEST_F(RunTest, SignalSavesAndResumeIsBitwiseTheUninterruptedRun) {
  ASSERT_EQ(run({"train", "config.yaml"}).exit_code, 0);
  for (const int signal : {SIGINT, SIGTERM}) {
    const std::string out = signal == SIGINT ? "interrupted" : "terminated";
    // Stopped twice: early, and after it was resumed.
    for (const char* line : {"step  1/24", "resume "}) {
      Process process = start({"train", "config.yaml", "train.out=" + out});
      ASSERT_TRUE(process.wait_for(line)) << process.output();
      process.send(signal);
      const Outcome stopped = process.finish();
      ASSERT_EQ(stopped.exit_code, 75) << stopped.output;
      EXPECT_NE(stopped.output.find("stopped by a signal after step "), std::string::npos) << stopped.output;
    }
    const Outcome outcome = run({"train", "config.yaml", "train.out=" + out});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_EQ(metrics(out), metrics("full"));
    expect_same(path(out + "/checkpoints/step_000024.h5"), path("full/checkpoints/step_000024.h5"));
    expect_same(path(out + "/checkpoints/best.h5"), path("full/checkpoints/best.h5"));
  }
}

TEST_F(RunTest, ARunWithGroupsGoesOnBitwise) {
  const auto train = [](const std::string& out, std::vector<std::string> more = {}) {
    more.insert(more.begin(),
                {"train", "config.yaml", "train.out=" + out,
                 "train.groups=[{names: [token_embedding.weight], optimizer: sgd, lr_factor: 0.5},"
                 " {names: ['blocks.*_norm.*'], weight_decay: 0, betas: [0.5, 0.75]}]"});
    return more;
  };
  ASSERT_EQ(run(train("full")).exit_code, 0);
  Process process = start(train("parts"));
  ASSERT_TRUE(process.wait_for("step  1/24")) << process.output();
  process.send(SIGTERM);
  ASSERT_EQ(process.finish().exit_code, 75);
  const Outcome other = run(train("parts", {"train.groups=null"}));
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_NE(other.output.find("train.groups: - / "), std::string::npos) << other.output;
  ASSERT_EQ(run(train("parts")).exit_code, 0);
  EXPECT_EQ(metrics("parts"), metrics("full"));
  expect_same(path("parts/checkpoints/step_000024.h5"), path("full/checkpoints/step_000024.h5"));
  ASSERT_EQ(run({"train", "config.yaml", "train.out=plain"}).exit_code, 0);
  EXPECT_NE(metrics("plain"), metrics("full"));

  const Outcome misspelt = run({"train", "config.yaml", "train.groups=[{names: [blocks.*.mlp.upp.weight]}]"});
  EXPECT_EQ(misspelt.exit_code, 2);
  for (const char* part :
       {"command line override 'train.groups", "'blocks.*.mlp.upp.weight' names no parameter",
        "did you mean 'blocks.*.mlp.up.weight'"})
    EXPECT_NE(misspelt.output.find(part), std::string::npos) << misspelt.output;
}

TEST_F(RunTest, ASecondSignalEndsAtOnce) {
  // One step takes many seconds, so the first signal cannot have been served yet.
  Process process = start({"train", "config.yaml", "train.batch_size=100000", "train.out=slow"});
  ASSERT_TRUE(process.wait_for("expected peak")) << process.output();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  process.send(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  process.send(SIGINT);
  EXPECT_EQ(process.finish().exit_code, 128 + SIGINT);
}

// timeout(1) signals a process and then its group.
TEST_F(RunTest, OneWishThatArrivesTwiceStillSaves) {
  Process process = start({"train", "config.yaml", "train.steps=100000", "checkpoint.interval=0"});
  ASSERT_TRUE(process.wait_for("| loss ")) << process.output();
  process.send(SIGTERM);
  process.send(SIGTERM);
  EXPECT_EQ(process.finish().exit_code, 75);
  EXPECT_NE(run({"inspect", "full"}).output.find("step"), std::string::npos);
}

TEST_F(RunTest, ALayoutFileIsPartOfTheRun) {
  const auto dump = [&](const std::string& pattern) {
    write("pattern.yaml", "tile: 16\npattern: " + pattern);
    const Outcome outcome =
        run({"explain", "pattern.yaml", "--n", "48", "--heads", "2", "--dump", "layout.h5", "--overwrite"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  };
  const std::string pattern = "pattern={block: {file: layout.h5}}";
  dump("{local: {window: 16}}");
  const Outcome first = run({"train", "config.yaml", pattern, "train.out=laid"});
  ASSERT_EQ(first.exit_code, 0) << first.output;
  // A layout file fits its own length only; generating pads to that.
  const Outcome text = run({"generate", "laid", "--prompt", "tile ", "--tokens", "5"});
  EXPECT_EQ(text.exit_code, 0) << text.output;
  dump("{local: {window: 2}}");
  for (const char* command : {"eval", "generate"}) {
    const Outcome changed = run({command, "laid"});
    EXPECT_EQ(changed.exit_code, 3) << changed.output;
    EXPECT_NE(changed.output.find("layout file"), std::string::npos) << changed.output;
  }
}

TEST_F(RunTest, FilesThatAreNoRunsStay) {
  fs::create_directories(path("mine"));
  write("mine/config.yaml", "# precious\n" + std::string(kConfig));
  for (const char* mode : {"--resume=auto", "--overwrite"}) {
    const Outcome outcome = run({"train", "mine/config.yaml", "train.out=mine", mode});
    EXPECT_EQ(outcome.exit_code, 2) << outcome.output;
    EXPECT_NE(outcome.output.find("would replace its config.yaml"), std::string::npos) << outcome.output;
  }
  std::ifstream kept(path("mine/config.yaml"));
  std::string line;
  std::getline(kept, line);
  EXPECT_EQ(line, "# precious");
}

TEST_F(RunTest, ARunBelowItsDataIsNotReadAsData) {
  const std::vector<std::string> command = {"train", "config.yaml", "data.train=text", "train.out=text/run"};
  Process process = start(command);
  ASSERT_TRUE(process.wait_for("step 12/24")) << process.output();
  process.send(SIGTERM);
  ASSERT_EQ(process.finish().exit_code, 75);
  const Outcome again = run(command);
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_NE(again.output.find("1 run folder"), std::string::npos) << again.output;
  const Outcome same = run({"train", "config.yaml", "data.train=text", "train.out=text"});
  EXPECT_EQ(same.exit_code, 2) << same.output;
}

TEST_F(RunTest, MoreMemoryThanThereIsIsRefused) {
  const Outcome outcome = run({"train", "config.yaml", "model.vocab_size=1073741824"});
  EXPECT_EQ(outcome.exit_code, 6) << outcome.output;
}

TEST_F(RunTest, KilledAtOnceResumesBitwise) {
  ASSERT_EQ(run({"train", "config.yaml"}).exit_code, 0);
  Process process = start({"train", "config.yaml", "train.out=killed"});
  ASSERT_TRUE(process.wait_for("step 12/24")) << process.output();
  process.send(SIGKILL);
  process.finish();
  const Outcome outcome = run({"train", "config.yaml", "train.out=killed"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(metrics("killed"), metrics("full"));
  expect_same(path("killed/checkpoints/step_000024.h5"), path("full/checkpoints/step_000024.h5"));
}

TEST_F(RunTest, DamagedNewestCheckpointFallsBackToTheOneBefore) {
  ASSERT_EQ(run({"train", "config.yaml"}).exit_code, 0);
  Process process = start({"train", "config.yaml", "train.out=hurt", "train.steps=24"});
  ASSERT_TRUE(process.wait_for("step 20/24"));
  process.send(SIGKILL);
  process.finish();
  const fs::path newest = path("hurt/checkpoints/step_000016.h5");
  ASSERT_TRUE(fs::exists(newest));
  fs::resize_file(newest, fs::file_size(newest) / 2);
  const Outcome outcome = run({"train", "config.yaml", "train.out=hurt"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("step_000016.h5"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("at step 8"), std::string::npos) << outcome.output;
  EXPECT_EQ(metrics("hurt"), metrics("full"));
}

TEST_F(RunTest, NotFiniteStopsBeforeTheWeightsChange) {
  const Outcome outcome =
      run({"train", "config.yaml", "train.lr=1e30", "train.warmup_steps=0", "train.clip=0",
           "train.optimizer=sgd", "train.momentum=0", "checkpoint.interval=1"});
  EXPECT_EQ(outcome.exit_code, 4) << outcome.output;
  EXPECT_NE(outcome.output.find("not finite, first in "), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("step "), std::string::npos);
  EXPECT_NE(outcome.output.find("hint: "), std::string::npos);
}

TEST_F(RunTest, ARunFolderHasOneOwner) {
  Process first = start({"train", "config.yaml", "train.steps=100000"});
  ASSERT_TRUE(first.wait_for("step "));
  const Outcome second = run({"train", "config.yaml", "train.steps=100000"});
  EXPECT_EQ(second.exit_code, 2);
  EXPECT_NE(second.output.find("in use"), std::string::npos) << second.output;
  first.send(SIGINT);
  EXPECT_EQ(first.finish().exit_code, 75);
}

TEST_F(RunTest, RefusesWhatDoesNotFit) {
  ASSERT_EQ(run({"train", "config.yaml"}).exit_code, 0);
  const auto expect = [&](std::vector<std::string> arguments, int code, const std::string& part) {
    const Outcome outcome = run(std::move(arguments));
    EXPECT_EQ(outcome.exit_code, code) << outcome.output;
    EXPECT_NE(outcome.output.find(part), std::string::npos) << part << "\n" << outcome.output;
  };
  const std::string last = "full/checkpoints/step_000024.h5";
  expect({"train", "config.yaml"}, 2, "full");  // finished
  expect({"train", "config.yaml", "--resume", "never"}, 2, "full");
  expect({"train", "config.yaml", "model.dim=64", "train.out=other", "--resume", last}, 2, "model.dim");
  expect({"train", "config.yaml", "train.eps=1e-6", "train.out=other", "--resume", last}, 2, "train.eps");
  expect({"train", "config.yaml", "train.out=other", "--resume", "missing.h5"}, 3, "missing.h5");
  expect({"train", "config.yaml", "data.train=nowhere"}, 3, "nowhere");
  expect({"train", "missing.yaml"}, 2, "missing.yaml");
  expect({"train", "config.yaml", "device=cuda"}, 2, "cuda");
  expect({"train", "config.yaml", "tile=48"}, 2, "tile");
  expect({"train", "config.yaml", "pattern={longformer: {window: 0, global: 1}}"}, 2, "window");
  expect({"train", "config.yaml", "pattern={longformer: {windo: 8, global: 1}}"}, 2, "window");
  expect({"train"}, 2, "config");
  expect({"trian"}, 2, "did you mean 'train'");
  expect({"generate", "full", "--tokens", "0"}, 2, "tokens");
  expect({"eval", "config.yaml"}, 3, "config.yaml");
  expect({"inspect", "text"}, 3, "text");
  write("other.txt", "changed");
  fs::copy(path("other.txt"), path("text/0.txt"), fs::copy_options::overwrite_existing);
  expect({"train", "config.yaml", "train.out=other", "--resume", last}, 3, "data has changed");
}

TEST_F(RunTest, EvaluatesGeneratesAndInspects) {
  ASSERT_EQ(run({"train", "config.yaml"}).exit_code, 0);
  const Outcome evaluated = run({"eval", "full", "--batches", "4"});
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.output;
  double best = INFINITY;
  for (const std::string& line : metrics("full"))
    if (const auto json = nlohmann::json::parse(line); json.contains("val_loss"))
      best = std::min(best, json.at("val_loss").get<double>());
  EXPECT_NE(evaluated.output.find(fmt::format("loss {:.4f}", best)), std::string::npos) << evaluated.output;
  EXPECT_EQ(run({"eval", "full", "--data", "text/1.txt"}).exit_code, 0);

  const Outcome text = run({"generate", "full", "--prompt", "tile ", "--tokens", "100", "--seed", "3"});
  EXPECT_EQ(text.exit_code, 0) << text.output;
  EXPECT_EQ(text.output.substr(0, 5), "tile ");
  EXPECT_EQ(run({"generate", "full", "--prompt", "tile ", "--tokens", "100", "--seed", "3"}).output,
            text.output);
  EXPECT_NE(run({"generate", "full", "--prompt", "tile ", "--tokens", "100", "--seed", "4"}).output,
            text.output);

  const Outcome inspected = run({"inspect", "full"});
  EXPECT_EQ(inspected.exit_code, 0);
  EXPECT_NE(inspected.output.find("blocks.1.mlp.down.weight"), std::string::npos) << inspected.output;
}

TEST_F(RunTest, TokenFilesTrainLikeTheirText) {
  ASSERT_EQ(run({"prepare", "text", "-o", "tokens.h5"}).exit_code, 0);
  ASSERT_EQ(run({"inspect", "tokens.h5"}).exit_code, 0);
  for (const std::string data : {"text", "tokens.h5"}) {
    const Outcome outcome =
        run({"train", "config.yaml", "data.val_fraction=0", "train.eval_interval=null",
             "train.eval_batches=null", "train.steps=4", "data.train=" + data, "train.out=run_" + data});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  }
  EXPECT_EQ(metrics("run_text"), metrics("run_tokens.h5"));
}

TEST_F(RunTest, EncodersTrain) {
  for (const char* name : {"a", "b"}) {
    fs::create_directories(path("classes") / name);
    for (int i = 0; i < 8; ++i)
      std::ofstream(path("classes") / name / std::to_string(i)) << std::string(20 + i, name[0]) << "\n";
  }
  const Outcome masked =
      run({"train", "config.yaml", "model.type=encoder_mlm", "causal=false", "train.out=masked"});
  EXPECT_EQ(masked.exit_code, 0) << masked.output;
  const Outcome classes = run({"train", "config.yaml", "model.type=encoder_classifier", "causal=false",
                               "data.train=classes", "data.val_fraction=0.25", "train.out=classes_run"});
  EXPECT_EQ(classes.exit_code, 0) << classes.output;
  EXPECT_NE(classes.output.find("accuracy 100.0 %"), std::string::npos) << classes.output;
}

TEST_F(RunTest, DryRunPredictsThePeakWithinTenPercent) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory is in the resident set";
#endif
  // Large enough that tensors, not the program itself, are most of it.
  const std::vector<std::string> shape = {"model.dim=128",         "model.n_heads=4",
                                          "data.seq_len=2048",     "train.steps=3",
                                          "train.eval_interval=0", "checkpoint.interval=0",
                                          "train.batch_size=8",    "train.micro_batch_size=4",
                                          "train.out=memory",      "threads=2"};
  std::vector<std::string> dry = {"train", "config.yaml", "--dry-run"}, real = {"train", "config.yaml"};
  dry.insert(dry.end(), shape.begin(), shape.end());
  real.insert(real.end(), shape.begin(), shape.end());
  const Outcome plan = run(dry);
  ASSERT_EQ(plan.exit_code, 0) << plan.output;
  EXPECT_FALSE(fs::exists(path("memory")));
  const Outcome outcome = run(real);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const auto number_after = [](const std::string& text, const std::string& mark) {
    return std::stod(text.substr(text.find(mark) + mark.size()));
  };
  const double expected = number_after(plan.output, "expected peak ");
  const double peak = number_after(outcome.output, "memory    peak ");
  EXPECT_NEAR(expected / peak, 1, 0.1) << plan.output << outcome.output;
}

}  // namespace
}  // namespace filigree
