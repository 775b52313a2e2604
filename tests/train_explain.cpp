// filigree explain as a command: configs, pattern files, patterns written out, and what it refuses.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "attention/tile_layout.h"
#include "core/hdf5.h"
#include "tests/temporary_folder.h"

namespace filigree {
namespace {

using Json = nlohmann::json;

struct Outcome {
  int exit_code;
  std::string text;  // stdout and stderr
};

Outcome explain_command(const std::string& arguments) {
  FILE* pipe = ::popen((FILIGREE_BINARY " explain " + arguments + " 2>&1").c_str(), "r");
  check(pipe != nullptr, "popen");
  Outcome outcome{0, ""};
  std::array<char, 4096> buffer;
  while (const auto got = std::fread(buffer.data(), 1, buffer.size(), pipe))
    outcome.text.append(buffer.data(), got);
  outcome.exit_code = WEXITSTATUS(::pclose(pipe));
  return outcome;
}

class ExplainCommand : public testing::Test {
 protected:
  std::string file(const std::string& name, const std::string& text) const {
    spill(folder_ / name, text);
    return (folder_ / name).string();
  }
  TemporaryFolder folder_;
};

TEST_F(ExplainCommand, TakesAPatternWrittenOut) {
  const auto outcome =
      explain_command("'{local: {window: 64}}' --layers 2 --heads 3 --head-dim 32 --savings");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.text.find("4,096 tokens, causal, tile 64, 2 layers of 3 heads of dimension 32\n"), 0u)
      << outcome.text;
  for (const char* part : {"16,777,216", "262,144", "16.4x", "8.4x"})
    EXPECT_NE(outcome.text.find(part), std::string::npos) << part;
}

TEST_F(ExplainCommand, AnswersTheQuestionAndStops) {
  const auto outcome = explain_command("'{local: {window: 8}}' --n 32");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_TRUE(outcome.text.ends_with("  every pair is connected from here on\n") ||
              outcome.text.ends_with("  for example, nothing carries key 0 to query 8\n"))
      << outcome.text;
  for (const char* part : {"reference: n = 4096", "what query i may see of key j"})
    EXPECT_EQ(outcome.text.find(part), std::string::npos) << part;
  // Each alone, too.
  const auto rules = explain_command("--rules"), savings = explain_command("--savings");
  EXPECT_EQ(rules.text.find("what query i may see of key j"), 0u) << rules.text;
  EXPECT_EQ(rules.text.find("reference"), std::string::npos);
  EXPECT_EQ(savings.text.find("reference: n = 4096"), 0u) << savings.text;
  EXPECT_EQ(explain_command("").exit_code, 2);
}

TEST_F(ExplainCommand, ConfirmsItsFiles) {
  const std::string dump = (folder_ / "layout.h5").string(), png = (folder_ / "a.png").string(),
                    svg = (folder_ / "a.svg").string();
  const std::string files = " --dump " + dump + " --png " + png + " --svg " + svg;
  const auto outcome = explain_command("full --n 32" + files);
  EXPECT_TRUE(
      outcome.text.ends_with("\npicture   " + png + "\npicture   " + svg + "\nlayout    " + dump + "\n"))
      << outcome.text;
  for (const std::string& file : {dump, png, svg}) std::filesystem::remove(file);
  // Beside JSON on stderr, after it.
  const std::string text = explain_command("full --n 32 --json" + files).text;
  const std::size_t end = text.find("picture   " + png);
  ASSERT_NE(end, std::string::npos) << text;
  EXPECT_TRUE(Json::accept(text.substr(0, end))) << text;
}

TEST_F(ExplainCommand, TakesTheNameOfAPattern) {
  const auto json = Json::parse(explain_command("full --n 100 --json").text);
  EXPECT_EQ(json["total"]["exact_pairs"], 100 * 101 / 2);
}

TEST_F(ExplainCommand, TakesAPatternFile) {
  const auto path = file("p.yaml", "causal: false\ntile: 32\npattern: {local: {window: 5}}\n");
  const auto outcome = explain_command(path + " --n 100 --json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.text;
  const auto json = Json::parse(outcome.text);
  EXPECT_EQ(json["n"], 100);
  EXPECT_EQ(json["tile"], 32);
  EXPECT_EQ(json["causal"], false);
  EXPECT_EQ(json["total"]["exact_pairs"], 100 * 5 - 6);
}

TEST_F(ExplainCommand, TakesAConfig) {
  const auto path = file("c.yaml",
                         "model: {dim: 64, n_layers: 3, n_heads: 4, n_kv_heads: 2}\n"
                         "pattern: {layers: [{layers: 0-1, pattern: {local: {window: 8}}},"
                         " {layers: 2, pattern: {full: {}}}]}\n"
                         "data: {train: text, seq_len: 128}\n"
                         "train: {steps: 100, batch_size: 8, lr: 1e-3}\n");
  const auto outcome = explain_command(path + " --json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.text;
  const auto json = Json::parse(outcome.text);
  EXPECT_EQ(json["n"], 128);
  EXPECT_EQ(json["n_layers"], 3);
  EXPECT_EQ(json["n_heads"], 4);
  EXPECT_EQ(json["n_kv_heads"], 2);
  EXPECT_EQ(json["head_dim"], 16);
  EXPECT_EQ(json["groups"].size(), 2u);

  const auto refused = explain_command(path + " --heads 2");
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.text.find("--heads is for patterns"), std::string::npos) << refused.text;

  const std::string dump = (folder_ / "layout.h5").string();
  const auto ambiguous = explain_command(path + " --dump " + dump);
  EXPECT_EQ(ambiguous.exit_code, 2);
  EXPECT_NE(ambiguous.text.find("the layers differ"), std::string::npos) << ambiguous.text;
  ASSERT_EQ(explain_command(path + " --dump " + dump + " --layer 1").exit_code, 0);
  EXPECT_EQ(load_layout(dump).statistics().exact_pairs, 4 * (128 * 8 - 8 * 7 / 2));
  EXPECT_EQ(h5::Reader(dump).info("mask").dims, (h5::Dims{4, 128, 128}));
}

TEST_F(ExplainCommand, WritesPicturesAndFilesThatPatternsRead) {
  const std::string dump = (folder_ / "layout.h5").string(), png = (folder_ / "a.png").string(),
                    svg = (folder_ / "a.svg").string();
  ASSERT_EQ(
      explain_command("'{bigbird: {block: 32}}' --n 5000 --dump " + dump + " --png " + png + " --svg " + svg)
          .exit_code,
      0);
  EXPECT_EQ(slurp(png).substr(1, 3), "PNG");
  EXPECT_EQ(slurp(svg).substr(0, 4), "<svg");
  EXPECT_FALSE(h5::Reader(dump).has("mask"));  // beyond 4096 tokens
  const auto direct = Json::parse(explain_command("'{bigbird: {block: 32}}' --n 5000 --json").text);
  const auto read = Json::parse(explain_command("'{block: {file: " + dump + "}}' --n 5000 --json").text);
  EXPECT_EQ(direct, read);
}

TEST_F(ExplainCommand, RefusesWithPositionAndHint) {
  const auto outcome = explain_command("'{locl: {window: 64}}'");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.text, "filigree: PATTERN:1:2: unknown pattern 'locl'\n  hint: did you mean 'local'?\n");
  EXPECT_EQ(explain_command("'{full: {}}' --n 0").exit_code, 2);
  EXPECT_EQ(explain_command((folder_ / "missing.yaml").string()).exit_code, 2);
  EXPECT_EQ(explain_command("'{full: {}}' --png " + (folder_ / "no" / "a.png").string()).exit_code, 5);
}

}  // namespace
}  // namespace filigree
