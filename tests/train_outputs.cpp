// Outputs of every command: none replaces an input, nor a file that is there, nor leaves half of one.
#include <sys/mount.h>
#include <sys/resource.h>

#include <csignal>
#include <map>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/hdf5.h"
#include "core/output_check.h"
#include "tests/run_fixture.h"

namespace filigree {
namespace {

using Arguments = std::vector<std::string>;

class OutputsTest : public RunTest {
 protected:
  // Every file below the folder with what it holds, but the logs of the commands.
  std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) {
      const std::string name = entry.path().lexically_relative(folder_.path()).string();
      if (entry.is_regular_file() && !name.starts_with("log_")) found[name] = slurp(entry.path());
    }
    return found;
  }
  void train_a_little(const std::string& out = "full") {
    const Outcome outcome = run({"train", "config.yaml", "train.steps=2", "train.out=" + out});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  }
  void expect_refused(const Arguments& arguments, int exit_code, const std::string& words) {
    const auto before = files();
    const Outcome outcome = run(arguments);
    const std::string command = fmt::format("{}", fmt::join(arguments, " "));
    EXPECT_EQ(outcome.exit_code, exit_code) << command << "\n" << outcome.output;
    EXPECT_NE(outcome.output.find(words), std::string::npos) << command << "\n" << outcome.output;
    EXPECT_TRUE(files() == before) << command << " changed a file";
  }
  // A shell command with the binary as $F; its exit code and output.
  Outcome shell(const std::string& script) {
    const fs::path log = path("log_shell");
    const std::string command = fmt::format("cd '{}' && F='{}' && ( {} ) > '{}' 2>&1",
                                            folder_.path().string(), FILIGREE_BINARY, script, log.string());
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), slurp(log)};
  }
};

TEST_F(OutputsTest, NoOutputReplacesAnInputNotEvenWithOverwrite) {
  train_a_little();
  ASSERT_EQ(run({"export", "full", "-o", "hf"}).exit_code, 0);
  const std::string best = "full/checkpoints/best.h5";
  fs::create_symlink(best, path("link.h5"));
  fs::create_hard_link(path(best), path("hard.h5"));
  fs::create_hard_link(path("text/3.txt"), path("three"));
  write("prompts.txt", "tile\n");
  const std::string input = "is itself an input and would be overwritten", same = "and would overwrite it";
  const std::vector<std::pair<Arguments, std::string>> cases = {
      {{"eval", "full", "--logits", best}, input},
      {{"eval", best, "--logits", "text/../" + best}, same},
      {{"eval", "full", "--logits", "link.h5"}, same},
      {{"eval", "full", "--logits", "hard.h5"}, same},
      {{"eval", "full", "--data", "text", "--logits", "text/0.txt"}, input},
      {{"eval", "full", "--logits", "text/0.txt"}, input},  // of the run's own data
      {{"eval", "full", "--logits", "full/checkpoints/step_000002.h5"}, "belongs to the run"},
      {{"eval", "full", "--logits", "full/checkpoints/step_000009.h5"}, "belongs to the run"},
      {{"harden", "full", "--budget", "0.5", "-o", best}, "write them with --layouts"},
      {{"generate", "full", "--prompts", "prompts.txt", "-o", "prompts.txt"}, input},
      {{"generate", "full", "-o", best}, input},
      {{"prepare", "text", "-o", "text/1.txt"}, input},
      {{"prepare", "text", "-o", "three"}, same},
      {{"tokenizer", "text", "-o", "three"}, same},
      {{"import", "hf", "-o", "hf/model.safetensors"}, input},
      {{"import", "hf", "-o", best}, "belongs to the run"},
      {{"import", "hf", "--pattern", "config.yaml", "-o", "config.yaml"}, input},
      {{"explain", "config.yaml", "--svg", "config.yaml"}, input},
      {{"explain", "config.yaml", "--png", "a.png", "--svg", "./a.png"}, "is an output already"},
      {{"report", "full", "-o", "full/metrics.jsonl"}, "belongs to the run"},
      {{"bench", "crossover", "config.yaml", "--json", "config.yaml"}, input},
  };
  for (auto [arguments, words] : cases) {
    if (arguments[0] != "harden") arguments.push_back("--overwrite");
    expect_refused(arguments, 2, words);
  }
  expect_refused({"export", "full", "-o", "full", "--overwrite"}, 2, "which no export writes");
  expect_refused({"export", "full", "-o", "text", "--overwrite"}, 2, "which no export writes");
  expect_refused({"train", "config.yaml", "--overwrite", "train.init_from=full"}, 2,
                 "which --overwrite removes");
  expect_refused({"train", "config.yaml", "--overwrite", "--resume", best}, 2, "which --overwrite removes");
}

// What a config, a pattern or a tokenizer names is read as well.
TEST_F(OutputsTest, NoOutputReplacesWhatAnInputNames) {
  train_a_little();
  ASSERT_EQ(run({"export", "full", "-o", "hf"}).exit_code, 0);
  ASSERT_EQ(run({"explain", "config.yaml", "--dump", "tiles.h5"}).exit_code, 0);
  ASSERT_EQ(run({"tokenizer", "text", "-o", "t.json", "--vocab", "262"}).exit_code, 0);
  fs::copy_file(path("t.json"), path("t.val.h5"));
  write("tiles.yaml", "tile: 16\npattern: {block: {file: tiles.h5}}\n");
  write("more.yaml",
        "extends: config.yaml\npattern: {block: {file: tiles.h5}}\ntrain: {out: blocks, steps: 2}\n");
  ASSERT_EQ(run({"train", "more.yaml"}).exit_code, 0);
  const std::string input = "is itself an input and would be overwritten";
  const std::vector<Arguments> commands = {
      {"prepare", "text", "--tokenizer", "bpe:t.json", "-o", "t.json"},
      {"prepare", "text", "--tokenizer", "bpe:t.val.h5", "--val", "0.2", "-o", "t.h5"},
      {"explain", "more.yaml", "--png", "config.yaml"},
      {"explain", "more.yaml", "--svg", "tiles.h5"},
      {"explain", "more.yaml", "--svg", "text/0.txt"},
      {"explain", "tiles.yaml", "--n", "48", "--heads", "2", "--dump", "tiles.h5"},
      {"explain", "blocks", "--png", "tiles.h5"},
      {"report", "blocks", "-o", "tiles.h5"},
      {"report", "full", "-o", "text/0.txt"},
      {"import", "hf", "--pattern", "tiles.yaml", "-o", "tiles.h5"},
      {"bench", "crossover", "more.yaml", "--json", "config.yaml"},
      {"bench", "crossover", "more.yaml", "--svg", "tiles.h5"},
  };
  for (Arguments arguments : commands) {
    arguments.push_back("--overwrite");
    expect_refused(arguments, 2, input);
  }
}

TEST_F(OutputsTest, AFileThatIsThereNeedsOverwrite) {
  train_a_little();
  write("mine", "my own");
  const std::vector<Arguments> commands = {
      {"prepare", "text", "-o", "t.h5", "--val", "0.2"},
      {"tokenizer", "text", "-o", "t.json", "--vocab", "262"},
      {"eval", "full", "--logits", "l.h5"},
      {"generate", "full", "--tokens", "2", "-o", "made.jsonl"},
      {"harden", "full", "--budget", "0.5", "--batches", "1", "--layouts", "layouts"},
      {"explain", "config.yaml", "--png", "e.png"},
      {"explain", "config.yaml", "--svg", "e.svg"},
      {"explain", "config.yaml", "--dump", "e.h5"},
      {"export", "full", "-o", "hf"},
      {"import", "hf", "-o", "i.h5"},
      {"report", "full", "-o", "page.html"},
      {"bench", "crossover", "--lengths", "64", "--repeats", "1", "--pattern", "{local: {window: 8}}"},
  };
  for (Arguments command : commands) {
    const Outcome first = run(command);
    ASSERT_EQ(first.exit_code, 0) << command[0] << "\n" << first.output;
    expect_refused(command, 2, "is there already");
    command.push_back("--overwrite");
    const Outcome again = run(command);
    EXPECT_EQ(again.exit_code, 0) << command[0] << "\n" << again.output;
  }
  // The validation file counts, too; and a link is written through.
  fs::remove(path("t.h5"));
  expect_refused({"prepare", "text", "-o", "t.h5", "--val", "0.2"}, 2, "t.val.h5: is there already");
  fs::create_symlink("mine", path("link"));
  EXPECT_EQ(run({"explain", "config.yaml", "--svg", "link", "--overwrite"}).exit_code, 0);
  EXPECT_TRUE(fs::is_symlink(path("link")));
  EXPECT_NE(slurp(path("mine")).find("<svg"), std::string::npos);
  expect_refused({"report", "full", "-o", "no/page.html"}, 5, "there is no folder no");
  expect_refused({"report", "full", "-o", "text"}, 2, "is a folder");
  for (const auto& [name, bytes] : files()) EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
}

TEST_F(OutputsTest, ASweepReplacesNoForeignFile) {
  write("sweep.yaml", "base: config.yaml\naxes: {seed: [1]}\nout: sweep\n");
  fs::create_directories(path("sweep"));
  write("sweep/results.md", "mine");
  const Outcome outcome = run({"ablate", "sweep.yaml", "train.steps=1"});
  EXPECT_EQ(outcome.exit_code, 2) << outcome.output;
  EXPECT_NE(outcome.output.find("would replace its results.md"), std::string::npos) << outcome.output;
  EXPECT_EQ(slurp(path("sweep/results.md")), "mine");
}

TEST_F(OutputsTest, StreamsAreWrittenTo) {
  EXPECT_NE(shell("$F explain full --n 64 --svg /dev/stdout | cat").output.find("</svg>"), std::string::npos);
  EXPECT_NE(shell("$F tokenizer text --vocab 262 -o /dev/stdout > t").exit_code, 1);
  EXPECT_NE(slurp(path("t")).find("\"merges\""), std::string::npos);
  const Outcome no_pipe = shell("$F prepare text -o /dev/stdout | cat; test -e /dev/stdout");
  EXPECT_NE(no_pipe.output.find("is not a regular file"), std::string::npos) << no_pipe.output;
  EXPECT_EQ(no_pipe.exit_code, 0);
  EXPECT_EQ(shell("$F explain full --n 64 --png /dev/null").exit_code, 0);
}

TEST_F(OutputsTest, WhoClosesThePipeHearsNothing) {
  for (const char* ignored : {"", "trap '' PIPE;"}) {
    const Outcome outcome = shell(fmt::format(
        "{} {{ $F explain full --n 64 --svg e.svg --overwrite; echo $? > code; }} | (exec <&-)", ignored));
    EXPECT_EQ(outcome.output, "");
    EXPECT_EQ(slurp(path("code")), "141\n");
  }
}

TEST_F(OutputsTest, AFileBeyondTheLimitIsAnErrorAndLeavesNothing) {
  train_a_little();
  const auto limited = [&](const std::string& command, int blocks, const std::string& words) {
    const auto before = files();
    const Outcome outcome = shell(fmt::format("ulimit -f {}; exec $F {}", blocks, command));
    EXPECT_EQ(outcome.exit_code, 5) << command << "\n" << outcome.output;
    EXPECT_NE(outcome.output.find(words), std::string::npos) << command << "\n" << outcome.output;
    fs::remove(path("new/lock"));
    EXPECT_TRUE(files() == before) << command << " left something";
  };
  limited("prepare text -o t.h5 --val 0.2", 8, "File too large");
  limited("tokenizer text -o t.json", 1, "File too large");
  limited("train config.yaml train.out=new", 16, "none may be larger than");
  limited("export full -o hf", 16, "none may be larger than");
  limited("eval full --logits l.h5", 16, "File too large");
  limited("explain config.yaml --svg e.svg", 1, "File too large");
}

// A file system of its own; skipped where mounting is not allowed.
class SmallDisk {
 public:
  SmallDisk(const fs::path& at, const char* size) : at_(at) {
    fs::create_directories(at);
    mounted_ = ::mount("tmpfs", at.c_str(), "tmpfs", 0, size) == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(at_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }

 private:
  fs::path at_;
  bool mounted_ = false;
};

TEST_F(OutputsTest, ADiskThatIsTooSmallIsSeenBeforeTheFirstStep) {
  train_a_little();
  ASSERT_EQ(run({"export", "full", "-o", "hf"}).exit_code, 0);
  const SmallDisk disk(path("disk"), "size=1m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  const Arguments train = {"train", "config.yaml", "train.out=disk/run"};
  const Outcome outcome = run(train);
  EXPECT_EQ(outcome.exit_code, 5) << outcome.output;
  EXPECT_NE(outcome.output.find("no room for the run disk/run, which has up to 4 checkpoints of"),
            std::string::npos)
      << outcome.output;
  EXPECT_NE(outcome.output.find("at a time (2 kept, the best, one being written): it needs"),
            std::string::npos)
      << outcome.output;
  EXPECT_EQ(outcome.output.find("step "), std::string::npos) << outcome.output;
  expect_refused({"export", "full", "-o", "disk/hf"}, 5, "no room for the export: it needs");
  expect_refused({"import", "hf", "-o", "disk/i.h5"}, 5, "no room for the checkpoint disk/i.h5: it needs");
  write("large.txt", std::string(800'000, 'x'));
  expect_refused({"prepare", "large.txt", "-o", "disk/t.h5"}, 5,
                 "no room for the tokens of disk/t.h5: it needs 1.6 MB");
}

TEST_F(OutputsTest, WhatOverwriteFreesCountsAsRoom) {
  const SmallDisk disk(path("disk"), "size=3m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  const Arguments train = {"train", "config.yaml", "train.steps=2", "train.out=disk/run", "--overwrite"};
  for (int i = 0; i < 3; ++i) {
    const Outcome outcome = run(train);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  }
}

TEST(Unfinished, ASignalLeavesNothingBehind) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const TemporaryFolder folder;
    spill(folder / "a.txt", "old");
    const int status = wait_status(start_child([&] {
      ::signal(signal, SIG_DFL);
      clean_up_on_signals();
      AtomicFile text(folder / "a.txt");
      text.write("new", 3);
      h5::Writer tokens(folder / "t.h5");
      tokens.text("t", std::string(100'000, 'x'));
      const Unfinished made(folder / "made");
      fs::create_directories(made.path() / "sub");
      spill(made.path() / "sub" / "file", "x");
      ::raise(signal);
      return 0;
    }));
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal) << status;
    EXPECT_EQ(slurp(folder / "a.txt"), "old");
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator{}), 1);
  }
}

TEST(Unfinished, SignalsThatWereIgnoredStaySo) {
  const int status = wait_status(start_child([] {
    ::signal(SIGHUP, SIG_IGN);
    clean_up_on_signals();
    ::raise(SIGHUP);
    return 7;
  }));
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
}

TEST(AtomicFile, TouchesNoFileButItsOwn) {
  const TemporaryFolder folder;
  spill(folder / "page.html.tmp", "a user's own");
  write_file_atomically(folder / "page.html", "page");
  EXPECT_EQ(slurp(folder / "page.html.tmp"), "a user's own");
  EXPECT_EQ(slurp(folder / "page.html"), "page");
}

}  // namespace
}  // namespace filigree
