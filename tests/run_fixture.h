// Whole runs of the binary, as a user starts it, in a temporary folder with some text.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "core/random.h"
#include "tests/temporary_folder.h"
#include "train/record/checkpoint.h"
#include "train/record/run_folder.h"

namespace filigree {

namespace fs = std::filesystem;

// A line of metrics.jsonl less its timing, for comparing runs.
inline std::string without_timing(const std::string& line) {
  auto json = nlohmann::ordered_json::parse(line);
  json.erase("timing");
  return json.dump();
}

struct Outcome {
  int exit_code = -1;  // 128 + signal if one ended it
  std::string output;  // stdout and stderr
};

// The filigree binary, started with its output in a file.
class Process {
 public:
  Process(const fs::path& folder, std::vector<std::string> arguments)
      : log_(folder / fmt::format("log_{}", count_++)) {
    arguments.insert(arguments.begin(), FILIGREE_BINARY);
    pid_ = fork();
    if (pid_ == 0) {
      const int log = open(log_.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
      dup2(log, 1);
      dup2(log, 2);
      std::vector<char*> argv;
      for (std::string& a : arguments) argv.push_back(a.data());
      argv.push_back(nullptr);
      if (chdir(folder.c_str()) == 0) execv(argv[0], argv.data());
      _exit(127);
    }
  }

  std::string output() const {
    std::ifstream in(log_);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  void send(int signal) const { kill(pid_, signal); }
  // Waits until the output holds `text`; false if the process ends or a minute passes before.
  bool wait_for(const std::string& text) {
    for (int i = 0; i < 6000; ++i) {
      if (output().find(text) != std::string::npos) return true;
      if (waitpid(pid_, &status_, WNOHANG) == pid_) {
        ended_ = true;
        return output().find(text) != std::string::npos;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  Outcome finish() {
    if (!ended_) waitpid(pid_, &status_, 0);
    ended_ = true;
    return {WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_), output()};
  }

 private:
  static inline int count_ = 0;
  fs::path log_;
  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

class RunTest : public testing::Test {
 protected:
  RunTest() {
    // Text with something to learn: words of a small vocabulary in a random order.
    const unsigned seed = std::random_device{}();
    RandomStream random(seed);
    const char* words[] = {"tile ", "layout ", "mask ", "head ", "query ", "key\n"};
    fs::create_directories(folder_.path() / "text");
    for (int file = 0; file < 6; ++file) {
      std::ofstream out(folder_.path() / "text" / fmt::format("{}.txt", file));
      for (int i = 0; i < 300; ++i) out << words[random.below(6)];
    }
    write("config.yaml", kConfig);
  }

  fs::path write(const std::string& name, const std::string& text) {
    std::ofstream(folder_.path() / name) << text;
    return folder_.path() / name;
  }
  Process start(std::vector<std::string> arguments) { return Process(folder_.path(), std::move(arguments)); }
  Outcome run(std::vector<std::string> arguments) { return start(std::move(arguments)).finish(); }
  fs::path path(const std::string& name) const { return folder_.path() / name; }

  // metrics.jsonl without its timing, line by line.
  std::vector<std::string> metrics(const std::string& run) const {
    std::ifstream in(path(run) / "metrics.jsonl");
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(without_timing(line));
    return lines;
  }

  // Everything that a checkpoint holds but the environment that made it.
  static void expect_same(const fs::path& a, const fs::path& b) {
    const CheckpointContents x = read_checkpoint(a), y = read_checkpoint(b);
    EXPECT_EQ(x.state_json, y.state_json);
    for (const auto& [left, right] :
         {std::pair(&x.weights, &y.weights), std::pair(&x.optimizer, &y.optimizer),
          std::pair(&x.patterns, &y.patterns)}) {
      ASSERT_EQ(left->size(), right->size());
      for (std::size_t i = 0; i < left->size(); ++i) {
        EXPECT_EQ((*left)[i].first, (*right)[i].first);
        const Tensor &u = (*left)[i].second, &v = (*right)[i].second;
        ASSERT_EQ(u.shape(), v.shape()) << (*left)[i].first;
        EXPECT_EQ(std::memcmp(u.raw_data(), v.raw_data(), static_cast<std::size_t>(u.bytes())), 0)
            << (*left)[i].first;
      }
    }
  }

  static constexpr const char* kConfig = R"(
pattern: {longformer: {window: 8, global: 1}}
tile: 16
model: {type: decoder, dim: 32, n_layers: 2, n_heads: 2, dropout: 0.1}
data: {train: [text], val_fraction: 0.2, seq_len: 48}
train: {steps: 24, batch_size: 4, micro_batch_size: 2, lr: 1e-2, eval_interval: 8, eval_batches: 4, log_interval: 4, out: full}
checkpoint: {interval: 8, keep: 2}
)";

  TemporaryFolder folder_;
};

}  // namespace filigree
