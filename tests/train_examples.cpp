// The examples that `filigree COMMAND --help` ends with, run in the place where the quickstart has been run.
#include <fmt/format.h>

#include <regex>
#include <set>

#include "tests/run_fixture.h"

namespace filigree {
namespace {

class HelpExamples : public RunTest {
 protected:
  HelpExamples() {
    for (const char* name : {"configs", "core", "layers", "README.md"})
      fs::create_symlink(fs::path(FILIGREE_SOURCE_DIR) / name, path(name));
    fs::create_symlink(FILIGREE_BINARY, path("filigree"));
  }

  Outcome shell(const std::string& command) {
    const std::string log = path("shell.log").string();
    const int status = std::system(
        fmt::format("cd '{}' && PATH=.:$PATH; {{ {}\n}} > '{}' 2>&1", folder_.path().string(), command, log)
            .c_str());
    return {WEXITSTATUS(status), slurp(log)};
  }

  // "filigree bench crossover" and all others, by what the help lists.
  std::vector<std::string> commands(const std::string& parent) {
    const std::string help = run_help(parent);
    const std::size_t list = help.find("Subcommands:\n");
    if (list == std::string::npos) return {parent};
    std::vector<std::string> all;
    const std::regex line("\n  ([a-z]+) ");
    for (std::sregex_iterator found(help.begin() + static_cast<std::ptrdiff_t>(list), help.end(), line), end;
         found != end; ++found)
      for (const std::string& command : commands(parent + " " + (*found)[1].str())) all.push_back(command);
    return all;
  }

  std::string run_help(const std::string& command) {
    const Outcome outcome = shell(command + " --help");
    EXPECT_EQ(outcome.exit_code, 0) << command << outcome.output;
    return outcome.output;
  }
};

// With less of everything, so that it takes a second.
std::string smaller(std::string command) {
  const std::pair<const char*, const char*> less[] = {
      {"/usr/include/c++", "layers"},
      {"train.steps=200",
       "train.steps=2 train.warmup_steps=0 model.dim=48 data.seq_len=128 train.eval_batches=2"},
      {"512,1024,2048,4096", "64,128 --repeats 1"},
      {"small.yaml --jobs 2", "small.yaml --jobs 2 --dry-run"},
      {"--tokens 200", "--tokens 5"}};
  for (const auto& [much, little] : less)
    if (const std::size_t at = command.find(much); at != std::string::npos)
      command.replace(at, std::string_view(much).size(), little);
  return command;
}

TEST_F(HelpExamples, WorkAfterTheQuickstart) {
  const Outcome quickstart = shell(
      "filigree train configs/quickstart.yaml 'data.train=[core]' train.steps=2 train.warmup_steps=0 "
      "model.dim=48 model.n_layers=1 data.seq_len=512 train.eval_batches=2");
  ASSERT_EQ(quickstart.exit_code, 0) << quickstart.output;
  const std::vector<std::string> all = commands("filigree");
  EXPECT_GE(all.size(), 14u);
  for (const std::string& command : all) {
    const std::string help = run_help(command);
    const std::size_t begin = help.find("Example:\n");
    ASSERT_NE(begin, std::string::npos) << command << " has no example\n" << help;
    const std::string examples = help.substr(begin + std::strlen("Example:\n"));
    EXPECT_NE(examples.find(command + (command == "filigree doctor" ? "" : " ")), std::string::npos)
        << examples;
    if (command == "filigree doctor") continue;  // it measures the machine
    const Outcome outcome = shell("set -e\n" + smaller(examples));
    EXPECT_EQ(outcome.exit_code, 0) << examples << outcome.output;
  }
}

TEST_F(HelpExamples, HelpSpeaksInWords) {
  for (const std::string& command : commands("filigree")) {
    const std::string help = run_help(command);
    EXPECT_EQ(help.find("->"), std::string::npos) << help;
    EXPECT_EQ(help.find("ENUM"), std::string::npos) << help;
  }
  EXPECT_NE(run_help("filigree eval").find("--device cpu|auto|cuda"), std::string::npos);
  EXPECT_NE(run_help("filigree tokenizer").find("--style gpt2|llama3"), std::string::npos);
}

}  // namespace
}  // namespace filigree
