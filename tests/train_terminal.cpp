// What commands draw on a terminal: one line that says how far they are, at any width.
#include <gtest/gtest.h>

#include "tests/run_fixture.h"
#include "tests/terminal.h"

namespace filigree {
namespace {

class TerminalTest : public RunTest {
 protected:
  // The binary with a terminal as its output.
  class OnTerminal {
   public:
    OnTerminal(const fs::path& folder, unsigned short columns, std::vector<std::string> arguments)
        : terminal_(columns) {
      arguments.insert(arguments.begin(), FILIGREE_BINARY);
      std::vector<char*> argv;
      for (std::string& a : arguments) argv.push_back(a.data());
      argv.push_back(nullptr);
      pid_ = ::fork();
      if (pid_ != 0) return;
      for (const int stream : {1, 2}) ::dup2(terminal_.slave(), stream);
      if (::chdir(folder.c_str()) == 0) ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    void interrupt_after(const std::string& text) {
      while (!ended() && output_.find(text) == output_.npos) continue;
      ::kill(pid_, SIGINT);
    }
    std::string finish() {
      while (!ended()) continue;
      return output_;
    }

   private:
    bool ended() {
      int status = 0;
      const bool over = ::waitpid(pid_, &status, WNOHANG) == pid_;
      output_ += terminal_.read();
      if (!over) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      return over;
    }
    Terminal terminal_;
    pid_t pid_ = -1;
    std::string output_;
  };

  static void expect_one_line(const std::string& output, int columns) {
    EXPECT_GT(redraws(output).size(), 2u) << output;
    EXPECT_LT(widest(redraws(output)), columns);
    // A redraw is erased before a line of text begins.
    for (std::size_t end = output.find('\n'); end != output.npos; end = output.find('\n', end + 1)) {
      const std::size_t drawn = output.rfind('\r', end), begin = output.rfind('\n', end - 1);
      if (drawn == output.npos || (begin != output.npos && drawn < begin)) continue;
      EXPECT_EQ(output.substr(drawn + 1, kErase.size()), kErase) << output.substr(drawn);
    }
  }
};

TEST_F(TerminalTest, TrainingShowsStepsRateAndEvaluationInOneLine) {
  for (const unsigned short columns : {50, 80}) {
    OnTerminal run(folder_.path(), columns,
                   {"train", "config.yaml", "--overwrite", "train.steps=20", "train.log_interval=10",
                    "train.eval_batches=0", "data.val_fraction=0.5", "train.batch_size=16", "model.dim=64"});
    const std::string output = run.finish();
    expect_one_line(output, columns);
    std::string drawn;
    for (const std::string& text : redraws(output)) drawn += text + '\n';
    EXPECT_NE(drawn.find("/20 | ETA "), drawn.npos) << drawn;
    EXPECT_NE(drawn.find(" tok/s"), drawn.npos) << drawn;
    EXPECT_NE(drawn.find(" | evaluating "), drawn.npos) << drawn;
  }
}

TEST_F(TerminalTest, ASweepsLineEndsBeforeItsMessageOnCtrlC) {
  write("sweep.yaml",
        "base: {extends: config.yaml, train: {steps: 100000, eval_interval: 0}}\n"
        "axes: {pattern: {near: {local: {window: 4}}, all: full}}\n");
  OnTerminal run(folder_.path(), 50, {"ablate", "sweep.yaml"});
  run.interrupt_after("steps/s");
  const std::string output = run.finish();
  EXPECT_LT(widest(redraws(output)), 50) << output;
  const std::size_t message = output.find("stopping");
  ASSERT_NE(message, output.npos) << output;
  EXPECT_EQ(output[message - 1], '\n') << "the terminal's ^C is on the line before";
  EXPECT_EQ(redraws(output.substr(message)), std::vector<std::string>{}) << "nothing is drawn any more";
  EXPECT_EQ(output.substr(output.find("stopped by a signal") - 1, 1), "\n") << output;
}

}  // namespace
}  // namespace filigree
