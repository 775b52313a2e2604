// filigree generate as a user starts it.
#include <nlohmann/json.hpp>

#include "tests/run_fixture.h"

namespace filigree {
namespace {

class GenerateTest : public RunTest {
 protected:
  std::string train(const std::string& out, std::vector<std::string> more = {}) {
    std::vector<std::string> command = {"train", "config.yaml", "train.out=" + out, "train.steps=16"};
    command.insert(command.end(), more.begin(), more.end());
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return out;
  }
  std::string text(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "generate");
    const Outcome outcome = run(std::move(arguments));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return outcome.output;
  }
  void expect_refused(std::vector<std::string> arguments, int code, const std::string& part) {
    arguments.insert(arguments.begin(), "generate");
    const Outcome outcome = run(std::move(arguments));
    EXPECT_EQ(outcome.exit_code, code) << outcome.output;
    EXPECT_NE(outcome.output.find(part), std::string::npos) << part << "\n" << outcome.output;
  }
  static std::vector<nlohmann::json> lines(const std::string& output) {
    std::vector<nlohmann::json> all;
    std::stringstream in(output);
    for (std::string line; std::getline(in, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  }
};

// Beyond the length that the model sees, too.
TEST_F(GenerateTest, TheCacheChangesNothing) {
  for (const std::string positions : {"learned", "rope", "alibi"}) {
    const std::string model = train(positions, {"model.positions=" + positions});
    for (const char* length : {"5", "60"}) {
      const std::vector<std::string> command = {model,  "--prompt", "tile ", "--tokens",
                                                length, "--top-k",  "3"};
      std::vector<std::string> whole = command;
      whole.push_back("--no-cache");
      EXPECT_EQ(text(command), text(whole)) << positions;
    }
  }
}

TEST_F(GenerateTest, ALongerContextGrowsWhereThePositionsAllowIt) {
  train("rope", {"model.positions=rope"});
  train("learned");
  const std::vector<std::string> longer = {"rope",    "--prompt", "tile ",         "--tokens", "90",
                                           "--top-k", "3",        "--max-context", "400"};
  std::vector<std::string> whole = longer;
  whole.push_back("--no-cache");
  EXPECT_EQ(text(longer), text(whole));
  expect_refused({"learned", "--max-context", "400"}, 2, "max_seq_len 48");
  expect_refused({"learned", "--prompt", std::string(60, 'a')}, 2, "61 tokens");
  expect_refused({"rope", "--prompt", std::string(60, 'a')}, 2, "raise --max-context");
  EXPECT_EQ(
      text({"rope", "--prompt", std::string(60, 'a'), "--max-context", "61", "--tokens", "3"}).substr(0, 60),
      std::string(60, 'a'));
}

TEST_F(GenerateTest, PromptsOfAFileComeInOrderWhateverTheBatch) {
  const std::string model = train("full");
  write("prompts.txt", "tile \nlayout mask head query key\r\n\nhead");
  const std::vector<std::string> command = {model, "--prompts", "prompts.txt", "--tokens", "30"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), command.begin(), command.end());
    return text(more);
  };
  const std::string all = with({"--batch", "4"});
  EXPECT_EQ(with({"--batch", "1"}), all);
  EXPECT_EQ(with({"--batch", "3"}), all);
  const auto made = lines(all);
  ASSERT_EQ(made.size(), 4u) << all;
  EXPECT_EQ(made[0].at("prompt"), "tile ");
  EXPECT_EQ(made[1].at("prompt"), "layout mask head query key");
  EXPECT_EQ(made[2].at("prompt"), "");
  EXPECT_EQ(made[3].at("prompt"), "head");
  for (const auto& line : made) EXPECT_TRUE(line.at("tokens") == 30 || line.at("finish") == "end") << line;
  const std::string report = with({"-o", "made.jsonl"});
  EXPECT_NE(report.find("made.jsonl: 4 texts of "), std::string::npos) << report;
  EXPECT_EQ(slurp(path("made.jsonl")), all);
}

TEST_F(GenerateTest, StopsBeforeAStopString) {
  const std::string model = train("full");
  std::vector<std::string> plain;
  std::string whole;
  for (int seed = 1; whole.size() < 35; ++seed) {  // a text may end early
    plain = {model, "--prompt", "tile ", "--tokens", "60", "--seed", std::to_string(seed)};
    whole = text(plain);
  }
  const std::string stop = whole.substr(20, 3);
  std::vector<std::string> command = plain;
  command.insert(command.end(), {"--stop", "never there", "--stop", stop});
  EXPECT_EQ(text(command), whole.substr(0, whole.find(stop, 5)) + "\n");
  command.insert(command.end(), {"-o", "made.jsonl"});
  text(command);
  EXPECT_EQ(lines(slurp(path("made.jsonl")))[0].at("finish"), "stop");
}

TEST_F(GenerateTest, FiltersAreUsed) {
  const std::string model = train("full");
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {model, "--prompt", "tile ", "--tokens", "40", "--temperature", "1.5"});
    return text(more);
  };
  const std::string greedy = text({model, "--prompt", "tile ", "--tokens", "40", "--temperature", "0"});
  EXPECT_NE(with({}), greedy);
  EXPECT_EQ(with({"--top-p", "0.000001"}), greedy);
  EXPECT_EQ(with({"--min-p", "1"}), greedy);
  EXPECT_EQ(with({"--top-k", "1"}), greedy);
  EXPECT_NE(
      text({model, "--prompt", "tile ", "--tokens", "40", "--temperature", "0", "--repetition-penalty", "2"}),
      greedy);
}

TEST_F(GenerateTest, RefusesWhatDoesNotFit) {
  const std::string model = train("full");
  write("empty.txt", "");
  write("bytes.txt", "good\n\xFF\xFE\n");
  expect_refused({model, "--prompts", "empty.txt"}, 3, "empty.txt: holds no prompts");
  expect_refused({model, "--prompts", "bytes.txt"}, 3, "bytes.txt:2");
  expect_refused({model, "--prompts", "missing.txt"}, 3, "missing.txt");
  expect_refused({model, "--prompts", "empty.txt", "--prompt", "a"}, 2, "--prompt");
  expect_refused({model, "--stop", ""}, 2, "--stop");
  expect_refused({model, "--stop", "\xFF"}, 2, "--stop");
  expect_refused({model, "--top-p", "1.5"}, 2, "--top-p");
  expect_refused({model, "--top-p", "0"}, 2, "--top-p");
  expect_refused({model, "--min-p", "-1"}, 2, "--min-p");
  expect_refused({model, "--repetition-penalty", "0"}, 2, "--repetition-penalty");
  expect_refused({model, "--temperature", "nan"}, 2, "--temperature");
  expect_refused({model, "--batch", "0"}, 2, "--batch");
  expect_refused({model, "-o", "nowhere/made.jsonl"}, 5, "no folder nowhere");
  write("prompts.txt", "short\n" + std::string(60, 'a') + "\n");
  expect_refused({model, "--prompts", "prompts.txt"}, 2, "prompt 2 has 61 tokens");

  train("masked", {"model.type=encoder_mlm", "causal=false"});
  expect_refused({"masked", "--prompt", "a"}, 2, "only a decoder");
  const fs::path checkpoint = path("full/checkpoints/best.h5");
  fs::resize_file(checkpoint, fs::file_size(checkpoint) / 2);
  expect_refused({checkpoint.string()}, 3, "best.h5");
}

}  // namespace
}  // namespace filigree
