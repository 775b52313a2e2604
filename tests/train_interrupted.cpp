// What a person does with a run that was stopped: the same command again, --overwrite, --resume, paths with
// ~.
#include <csignal>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "tests/run_fixture.h"

namespace filigree {
namespace {

using Arguments = std::vector<std::string>;

// Sets what a child begins with, which the tests' own start may have changed.
class SignalSetting {
 public:
  SignalSetting(int signal, void (*handler)(int)) : signal_(signal), before_(std::signal(signal, handler)) {}
  ~SignalSetting() { std::signal(signal_, before_); }
  SignalSetting(const SignalSetting&) = delete;
  SignalSetting& operator=(const SignalSetting&) = delete;

 private:
  int signal_;
  void (*before_)(int);
};

class InterruptedTest : public RunTest {
 protected:
  Outcome stop(const Arguments& arguments, const std::string& after = "step  1/24", int signal = SIGINT) {
    Process process = start(arguments);
    EXPECT_TRUE(process.wait_for(after)) << process.output();
    process.send(signal);
    return process.finish();
  }
  static void expect_has(const Outcome& outcome, int exit_code, const std::string& words) {
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.output;
    EXPECT_NE(outcome.output.find(words), std::string::npos) << "no '" << words << "' in:\n"
                                                             << outcome.output;
  }
};

TEST_F(InterruptedTest, TheSameCommandGoesOnEvenWithOverwrite) {
  ASSERT_EQ(run({"train", "config.yaml", "train.out=whole"}).exit_code, 0);
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=2"}).exit_code, 0);  // what is overwritten
  const Arguments command = {"train", "config.yaml", "--overwrite"};
  for (const char* after : {"step  1/24", "resume "})
    expect_has(stop(command, after), 75, "the same command goes on from full/checkpoints/step_");
  expect_has(run(command), 0,
             "overwrite goes on with the unfinished run that it began; --resume never --overwrite");
  EXPECT_EQ(metrics("full"), metrics("whole"));
  expect_same(path("full/checkpoints/step_000024.h5"), path("whole/checkpoints/step_000024.h5"));
  expect_same(path("full/checkpoints/best.h5"), path("whole/checkpoints/best.h5"));
}

TEST_F(InterruptedTest, OverwriteStartsAnewWhateverItDidNotBegin) {
  const auto starts_anew = [&](Arguments more = {}) {
    Arguments command = {"train", "config.yaml", "--overwrite"};
    command.insert(command.end(), more.begin(), more.end());
    const Outcome outcome = stop(command);
    EXPECT_EQ(outcome.exit_code, 75) << outcome.output;
    EXPECT_EQ(outcome.output.find("resume    full"), std::string::npos) << outcome.output;
  };
  EXPECT_EQ(stop({"train", "config.yaml"}).exit_code, 75);
  starts_anew();                   // a run of a plain command
  starts_anew({"train.lr=2e-2"});  // of another config
  starts_anew({"--resume", "never", "train.lr=2e-2"});
  for (int i = 0; i < 6; ++i) write(fmt::format("text/{}.txt", i), "other data\n" + std::string(9000, 'x'));
  const Outcome other = stop({"train", "config.yaml", "train.lr=2e-2", "--overwrite"});
  expect_has(other, 75, "overwrite starts anew: full/checkpoints/step_");
  expect_has(run({"train", "config.yaml", "train.lr=2e-2"}), 0, "resume ");
  expect_has(run({"train", "config.yaml", "train.lr=2e-2", "--overwrite"}), 0, "step  1/24");  // finished
}

TEST_F(InterruptedTest, TheMessageNamesACommandThatGoesOn) {
  expect_has(stop({"train", "config.yaml", "--resume", "never"}), 75,
             "the same command without --resume never goes on from");
  expect_has(run({"train", "config.yaml", "checkpoint.keep=3"}), 0, "resume ");
  const Arguments fork = {"train", "config.yaml", "train.out=fork", "--resume",
                          "full/checkpoints/step_000008.h5"};
  const Outcome stopped = stop(fork, "resume ");
  EXPECT_EQ(stopped.exit_code, 75) << stopped.output;
  EXPECT_NE(stopped.output.find("goes on from fork/checkpoints/step_"), std::string::npos) << stopped.output;
}

TEST_F(InterruptedTest, NothingOfTheOldRunGoesBeforeTheNewOneHasPassedItsChecks) {
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=2"}).exit_code, 0);
  const std::string old = slurp(path("full/run.json")), weights = slurp(path("full/checkpoints/best.h5"));
  const std::vector<std::pair<Arguments, int>> wrong = {
      {{"train.lr=none"}, 2},
      {{"data.train=[nowhere]"}, 3},
      {{"train.batch_size=1000000", "train.micro_batch_size=1000000"}, 6},
      {{"train.init_from=nowhere"}, 3}};
  for (const auto& [override, exit_code] : wrong) {
    Arguments command = {"train", "config.yaml", "--overwrite"};
    command.insert(command.end(), override.begin(), override.end());
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.exit_code, exit_code) << override[0] << "\n" << outcome.output;
    EXPECT_EQ(slurp(path("full/run.json")), old);
    EXPECT_EQ(slurp(path("full/checkpoints/best.h5")), weights);
  }
}

TEST_F(InterruptedTest, AClosedTerminalStopsARunAsSigtermDoes) {
  const SignalSetting plain(SIGHUP, SIG_DFL);
  expect_has(stop({"train", "config.yaml"}, "step  1/24", SIGHUP), 75, "stopped by a signal after step ");
  expect_has(run({"train", "config.yaml"}), 0, "resume ");
}

TEST_F(InterruptedTest, UnderNohupTheRunGoesOn) {
  const SignalSetting ignored(SIGHUP, SIG_IGN);
  EXPECT_EQ(stop({"train", "config.yaml"}, "step  1/24", SIGHUP).exit_code, 0);
}

TEST_F(InterruptedTest, AClosedTerminalStopsASweepAndItsRunsSave) {
  const SignalSetting plain(SIGHUP, SIG_DFL);
  write("sweep.yaml", "base: config.yaml\naxes: {seed: [1]}\nout: sweep\n");
  Process process = start({"ablate", "sweep.yaml", "train.steps=3000", "train.eval_interval=0"});
  for (int i = 0; i < 3000 && slurp(path("sweep/seed-1/metrics.jsonl")).empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  process.send(SIGHUP);
  expect_has(process.finish(), 75, "the same command goes on: 0 of 1 cells are finished");
  EXPECT_FALSE(fs::is_empty(path("sweep/seed-1/checkpoints")));
}

// `train | head`: the run saves and says so where it still can.
TEST_F(InterruptedTest, ARunWhoseOutputIsClosedSaves) {
  const std::string script = fmt::format(
      "cd '{}' && {{ '{}' train config.yaml train.steps=3000 2>errors; echo $? >code; }} | head -n 30 >log",
      folder_.path().string(), FILIGREE_BINARY);
  ASSERT_EQ(std::system(script.c_str()), 0);
  EXPECT_EQ(slurp(path("code")), "75\n");
  EXPECT_NE(slurp(path("errors")).find("the same command goes on from full/checkpoints/step_"),
            std::string::npos)
      << slurp(path("errors"));
  EXPECT_FALSE(fs::is_empty(path("full/checkpoints")));
}

TEST_F(InterruptedTest, ResumeOfAFolderTakesTheNewestCheckpointThatVerifies) {
  // A rate that spoils the model after the first evaluation: the best checkpoint is the oldest.
  ASSERT_EQ(run({"train", "config.yaml", "train.lr=3", "train.min_lr=3", "train.warmup_steps=8"}).exit_code,
            0);
  const auto resume = [&](const std::string& out) {
    return run({"train", "config.yaml", "train.lr=3", "train.min_lr=3", "train.warmup_steps=8", "--resume",
                "full", "train.out=" + out});
  };
  expect_has(resume("a"), 0, "resume    full/checkpoints/step_000024.h5 at step 24");
  spill(path("full/checkpoints/step_000024.h5"), "damaged");
  const Outcome older = resume("b");
  expect_has(older, 0, "resume    full/checkpoints/step_000016.h5 at step 16");
  EXPECT_NE(older.output.find("filigree: full/checkpoints/step_000024.h5"), std::string::npos)
      << older.output;
  spill(path("full/checkpoints/step_000016.h5"), "damaged");
  expect_has(resume("c"), 0, "resume    full/checkpoints/best.h5 at step ");
  spill(path("full/checkpoints/best.h5"), "damaged");
  expect_has(resume("d"), 3, "every checkpoint of full is damaged");
}

class HomeTest : public InterruptedTest {
 protected:
  HomeTest() : home_(std::getenv("HOME") ? std::getenv("HOME") : "") {
    ::setenv("HOME", folder_.path().c_str(), 1);
  }
  ~HomeTest() override { ::setenv("HOME", home_.c_str(), 1); }

 private:
  std::string home_;
};

TEST_F(HomeTest, ExpandHomeIsTheShells) {
  const std::string home = folder_.path().string();
  EXPECT_EQ(expand_home("~"), home);
  EXPECT_EQ(expand_home("~/a b"), home + "/a b");
  EXPECT_EQ(expand_home("a/~/b"), "a/~/b");
  EXPECT_EQ(expand_home("./~x"), "./~x");
  EXPECT_EQ(expand_home(""), "");
  EXPECT_EQ(expand_home("~root/x"), "/root/x");
  EXPECT_NE(error_text(ErrorKind::usage, [] { expand_home("~nobody-here/x"); })
                .find("there is no user 'nobody-here' | a name that begins with ~ is a user's home folder; "
                      "./~nobody-here/x is a file here"),
            std::string::npos);
}

TEST_F(HomeTest, ConfigsAndSweepsExpandEveryPath) {
  ASSERT_EQ(run({"explain", "config.yaml", "--dump", "~/layout.h5"}).exit_code, 0);
  ASSERT_EQ(run({"tokenizer", "~/text", "-o", "~/t.json", "--vocab", "262"}).exit_code, 0);
  fs::create_directories(path("sub"));
  write("sub/c.yaml",
        "extends: ~/config.yaml\npattern: {block: {file: ~/layout.h5}}\n"
        "data: {train: [~/text], tokenizer: 'bpe:~/t.json'}\ntrain: {out: ~/made/run, steps: 2}\n");
  expect_has(run({"train", "~/sub/c.yaml"}), 0, "finished  2 steps");
  EXPECT_TRUE(fs::exists(path("made/run/checkpoints/best.h5")));
  expect_has(run({"train", "~/sub/c.yaml", "train.init_from=~/made/run", "train.out=~/tuned"}), 0,
             "start     from the weights of " + path("made/run").string());
  expect_has(run({"train", "~/sub/c.yaml", "--resume", "~/made/run", "train.out=~/again"}), 0,
             "resume    " + path("made/run/checkpoints/step_000002.h5").string());
  write("sub/sweep.yaml", "base: ~/config.yaml\naxes: {seed: [1]}\nout: ~/sweep\n");
  expect_has(run({"ablate", "~/sub/sweep.yaml", "--dry-run"}), 0, "in " + path("sweep").string());
  expect_has(run({"ablate", "~/sub/sweep.yaml", "--dry-run", "--out", "~/other"}), 0,
             "in " + path("other").string());
  expect_has(run({"eval", "~/made/run", "--data", "~/text", "--logits", "~/l.h5"}), 0, "l.h5: logits");
  expect_has(run({"export", "~/tuned", "-o", "~/hf"}), 0, "hf: ");
  expect_has(run({"inspect", "~/tuned"}), 0, "checkpoint");
  expect_has(run({"prepare", "~/text", "-o", "~/t.h5", "--tokenizer", "bpe:~/t.json"}), 0, "t.h5: ");
  EXPECT_FALSE(fs::exists(path("~")));
  EXPECT_TRUE(fs::exists(path("l.h5")) && fs::exists(path("hf/config.json")) && fs::exists(path("t.h5")));
  expect_has(run({"train", "config.yaml", "train.out=~nobody-here/x"}), 2,
             "command line override 'train.out=~nobody-here/x': train.out: ~nobody-here/x: there is no user");
}

}  // namespace
}  // namespace filigree
