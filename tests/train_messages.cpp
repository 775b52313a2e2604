// What the program says to slips: each message names what is wrong and what to write instead.
#include <fmt/format.h>

#include "attention/pattern_spec.h"
#include "core/hdf5.h"
#include "tests/run_fixture.h"

namespace filigree {
namespace {

class Messages : public RunTest {
 protected:
  // The command fails with this exit code and says all parts.
  void expect_says(const std::vector<std::string>& command, int exit_code,
                   const std::vector<std::string>& parts) {
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.output;
    for (const std::string& part : parts)
      EXPECT_NE(outcome.output.find(part), std::string::npos) << part << "\n" << outcome.output;
    EXPECT_EQ(outcome.output.find("->"), std::string::npos) << outcome.output;
  }
  void expect_refused(const std::string& override_text, const std::vector<std::string>& parts) {
    SCOPED_TRACE(override_text);
    expect_says({"train", "config.yaml", override_text, "--print-config"}, 2, parts);
  }
};

TEST_F(Messages, NumbersThatAreTooLarge) {
  expect_refused("train.steps=99999999999999999999",
                 {"train.steps must be at most 9223372036854775807, not '99999999999999999999'",
                  "the number is too large"});
  expect_refused("seed=99999999999999999999", {"seed must be at most 9223372036854775807", "too large"});
  expect_refused("train.steps=-1e30", {"train.steps must be at least 1", "too small"});
  const std::string huge = "99999999999999999999";
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"explain", "full", "--n", huge},
                                             {"prepare", "text", "-o", "t.h5", "--seed", huge},
                                             {"ablate", "sweep.yaml", "--jobs", huge},
                                             {"bench", "crossover", "--lengths", "64," + huge}})
    expect_says(command, 2, {fmt::format("'{}' is too large", huge)});
  expect_says({"explain", "full", "--n", "4k"}, 2, {"--n: must be an integer, not '4k'"});
}

TEST_F(Messages, APatternOnTheCommandLine) {
  const Outcome braces = run({"explain", "{local: {window: 8}}", "--n", "1"});
  EXPECT_EQ(braces.exit_code, 0);
  EXPECT_EQ(braces.output.find("1 token, causal, "), 0u) << braces.output;
  // As `pattern` lines of train and import print it.
  EXPECT_EQ(run({"explain", "local: {window: 8}", "--n", "1"}).output, braces.output);
  expect_says({"explain", "locl: {window: 8}"}, 2, {"unknown pattern 'locl'", "did you mean 'local'?"});
  expect_says({"explain", "local: {windw: 8}"}, 2, {"unknown key 'local.windw'", "did you mean 'window'?"});
  expect_says({"explain", "{local:", "{window:", "8}}"}, 2,
              {"not expected", "quote a pattern, or the shell cuts it at spaces: '{local: {window: 64}}'"});
  expect_says({"train", "config.yaml", "--steps", "10"}, 2,
              {"--steps", "written key=value, such as train.steps=200"});
  expect_says({"train", "config.yaml", "--device", "cpu"}, 2, {"--device", "or device=cpu"});
}

TEST_F(Messages, AnIntegerMayHaveAnExponent) {
  const Outcome config = run({"train", "config.yaml", "train.steps=1e3", "seed=12e2", "--print-config"});
  ASSERT_EQ(config.exit_code, 0) << config.output;
  EXPECT_NE(config.output.find("steps: 1000\n"), std::string::npos) << config.output;
  EXPECT_NE(config.output.find("seed: 1200\n"), std::string::npos) << config.output;
  const Outcome explained = run({"explain", "full", "--n", "1.5e3"});
  EXPECT_EQ(explained.exit_code, 0);
  EXPECT_EQ(explained.output.find("1,500 tokens, "), 0u) << explained.output;
}

TEST_F(Messages, WhatTheShellDoesToGlobs) {
  expect_refused("data.train=*.txt",
                 {"a value that begins with * has to be quoted", "'data.train=\"*.txt\"'"});
  expect_refused("data.train=[*.txt, b]",
                 {"aliases (*name) are not allowed", "quote a text that starts with *"});
  expect_refused("text/1.txt",
                 {"a file where an override, key=value, was expected", "quote it: 'data.train="});
  expect_says({"train", "config.yaml", "data.train=text/0.txt", "data.train=text/1.txt"}, 2,
              {"data.train is already set to text/0.txt", "'data.train=[text/0.txt, text/1.txt]'"});
  expect_says({"train", "config.yaml", "data.train=[a,", "b]"}, 2,
              {"the [ here is never closed", "in quotes, or the shell cuts it at spaces"});
  const Outcome quoted = run({"train", "config.yaml", "data.train=\"*.txt\"", "--print-config"});
  EXPECT_EQ(quoted.exit_code, 0) << quoted.output;
}

TEST_F(Messages, OverridesAmongTheFilesOfData) {
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=2"}).exit_code, 0);
  expect_says({"eval", "full", "--data", "text", "data.seq_len=24"}, 2,
              {"'data.seq_len=24' stands after --data, which takes it for a file, and there is none",
               "overrides stand before --data: filigree eval RUN KEY=VALUE --data FILES"});
  write("a=b.txt", "a file may have any name");
  EXPECT_EQ(run({"eval", "full", "--data", "a=b.txt"}).exit_code, 0);
}

TEST_F(Messages, AnImportedModelHasNoTextAndMayHaveNoTokenizer) {
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=2"}).exit_code, 0);
  ASSERT_EQ(run({"export", "full", "-o", "exported"}).exit_code, 0);
  fs::remove(path("exported/tokenizer.json"));
  ASSERT_EQ(run({"import", "exported", "-o", "imported.h5"}).exit_code, 0);
  expect_says({"eval", "imported.h5"}, 2,
              {"imported.h5: this model has no validation data; name some with --data"});
  expect_says({"generate", "imported.h5"}, 3,
              {"this model knows ids only, and no tokenizer that makes them text",
               "import a model with its tokenizer.json"});
}

TEST_F(Messages, WordsOfOtherPrograms) {
  expect_refused("device=gpu", {"device must be one of cpu, auto, cuda, not 'gpu'", "did you mean 'cuda'?"});
  expect_refused("precision=float32", {"did you mean 'fp32'?"});
  expect_says({"eval", "x", "--device", "gpu"}, 2,
              {"--device must be one of cpu, auto, cuda, not 'gpu'", "did you mean 'cuda'?"});
  expect_says({"eval", "x", "--device", "1"}, 2, {"--device must be one of"});
  expect_says({"export", "x", "-o", "y", "--dtype", "bfloat16"}, 2, {"did you mean 'bf16'?"});
  expect_says({"tokenizer", "text", "-o", "t.json", "--style", "gpt-2"}, 2, {"did you mean 'gpt2'?"});
}

TEST_F(Messages, SweepsAndConfigsNameEachOthersCommand) {
  write("sweep.yaml", "base: config.yaml\naxes: {seed: [1, 2]}\n");
  for (const char* command : {"train", "explain"})
    expect_says({command, "sweep.yaml"}, 2,
                {"sweep.yaml: is a sweep of many runs, not the config of one", "filigree ablate sweep.yaml"});
  expect_says({"ablate", "config.yaml"}, 2,
              {"config.yaml: is the config of one run, not a sweep of many", "filigree train config.yaml"});
}

// Every key of every config that is shipped, written without its section.
TEST_F(Messages, AKeyWithoutItsSection) {
  expect_refused("steps=10", {"unknown key 'steps'", "did you mean 'train.steps'?"});
  expect_refused("model.lr=1", {"unknown key 'model.lr'", "did you mean 'train.lr'?"});
  expect_refused("train.tile=16", {"unknown key 'train.tile'", "did you mean 'tile'?"});
  std::vector<std::string> texts = {kConfig};
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(FILIGREE_SOURCE_DIR) / "configs"))
    if (entry.path().extension() == ".yaml" && !parse_yaml_file(entry.path()).find("axes"))
      texts.push_back(to_yaml(load_config(entry.path()).to_yaml()));
  ASSERT_GT(texts.size(), 15u);
  for (const std::string& text : texts) {
    const YamlNode config = parse_yaml(text, "config");
    for (const auto& [section, body] : config.entries) {
      if (!body.is_map() || section.scalar == "pattern") continue;
      for (const auto& [key, value] : body.entries) {
        if (config.find(key.scalar)) continue;  // data.train, and the section
        YamlNode wrong = config;
        wrong.add(key.scalar, value);
        const std::string said = error_text(ErrorKind::usage, [&] { parse_config(wrong); });
        const std::string full = fmt::format("'{}.{}'", section.scalar, key.scalar);
        EXPECT_NE(said.find(full), std::string::npos) << said;
      }
    }
  }
}

TEST_F(Messages, KeysWithinPatterns) {
  expect_refused("pattern={learned_layout: {budgt: 0.1}}",
                 {"unknown key 'learned_layout.budgt'", "did you mean 'budget'?"});
  expect_refused("pattern={learned_span: {tile: 30}}",
                 {"unknown key 'learned_span.tile'", "did you mean 'tiles'?"});
  expect_refused("pattern={learned_layout: {budget: 0.1, warmpu: 0.2}}", {"did you mean 'warmup'?"});
  expect_refused("pattern={global: {token: 1}}", {"did you mean 'tokens'?"});
  expect_refused("pattern={block: {fiel: x.h5}}", {"did you mean 'file'?"});
  expect_refused("pattern={local: {window: 8}", {"the { here is never closed", "add the missing }"});
  expect_refused("pattern={local: {window: 8}}}", {"the } here closes nothing", "remove it"});
  write("open.yaml", "pattern: {local: {window: 8}\ntile: 16\n");
  expect_says({"train", "open.yaml"}, 2, {"open.yaml:1:10: not valid YAML: the { here is never closed"});
  write("tab.yaml", "model:\n\tdim: 64\n");
  expect_says({"train", "tab.yaml"}, 2,
              {"tab.yaml:2:1: not valid YAML: a tab before the first word", "indent with spaces"});
}

TEST_F(Messages, PatternsThatComputeNothing) {
  expect_refused("pattern={minus: [full, full]}", {"the pattern of head 0 allows no pair of its 48 tokens"});
  expect_refused(
      "pattern={heads: [{count: 1, pattern: full}, {count: 1, pattern: {minus: [{local: {window: 2}}, "
      "full]}}]}",
      {"the pattern of head 1 allows no pair"});
  expect_refused("pattern={block: {size: 16, pairs: [[1, 0], [0, 2]]}}",
                 {"block.pairs names [0, 2], whose keys all come after its queries"});
  expect_refused("pattern={block: {size: 16, pairs: [[3, 0]]}}", {"block.pairs names block 3"});
  expect_says({"explain", "{minus: [full, full]}", "--n", "64"}, 2, {"allows no pair of its 64 tokens"});
  expect_says({"explain", "{block: {size: 16, pairs: [[0, 2]]}}", "--n", "64"}, 2,
              {"come after its queries"});
  // A bidirectional model has keys after a query.
  const auto pattern =
      make_pattern(read_pattern(parse_yaml("{block: {size: 16, pairs: [[0, 2]]}}", "p")), 0, 1, 1);
  EXPECT_EQ(build_layout(*pattern, {48, false, 16}, 1).statistics().exact_pairs, 16 * 16);
}

TEST_F(Messages, InspectSaysWhatAFileIs) {
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=2", "train.out=r"}).exit_code, 0);
  ASSERT_EQ(run({"prepare", "text", "-o", "tokens.h5"}).exit_code, 0);
  ASSERT_EQ(run({"eval", "r", "--batches", "1", "--logits", "logits.h5"}).exit_code, 0);
  ASSERT_EQ(run({"explain", "{local: {window: 8}}", "--n", "64", "--dump", "layout.h5"}).exit_code, 0);
  ASSERT_EQ(run({"export", "r", "-o", "hf"}).exit_code, 0);
  ASSERT_EQ(run({"tokenizer", "text", "-o", "tokenizer.json", "--vocab", "260"}).exit_code, 0);
  std::vector<std::uint16_t> ids(300, 7);
  write("ids.bin", std::string(reinterpret_cast<const char*>(ids.data()), 2 * ids.size()));
  {
    h5::Writer other(path("other.h5"));
    other.dataset("surprise", DType::u16, {300}, ids.data());
    other.commit();
  }
  struct Shown {
    std::string file, words;
  };
  for (const auto& [file, words] : std::vector<Shown>{{"r", "checkpoint, "},
                                                      {"tokens.h5", "token file, checksums verified"},
                                                      {"layout.h5", "layout file, validated"},
                                                      {"logits.h5", "a logits file of filigree eval"},
                                                      {"hf/model.safetensors", "a safetensors file, "},
                                                      {"tokenizer.json", "a tokenizer of 260 tokens, bpe:"},
                                                      {"ids.bin", "300 tokens of 8 kinds"},
                                                      {"other.h5", "an HDF5 file\n  surprise"}}) {
    const Outcome outcome = run({"inspect", file});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_NE(outcome.output.find(words), std::string::npos) << outcome.output;
    EXPECT_EQ(outcome.output.find("damaged"), std::string::npos) << outcome.output;
    if (file == "r") continue;
    // In the place of a checkpoint each is told apart, too.
    const Outcome used = run({"eval", file});
    EXPECT_EQ(used.exit_code, 3) << used.output;
    if (file == "other.h5") continue;
    EXPECT_NE(used.output.find("is not a checkpoint but a"), std::string::npos) << used.output;
    EXPECT_EQ(used.output.find("damaged"), std::string::npos) << used.output;
  }
  expect_says({"inspect", "config.yaml"}, 3,
              {"config.yaml: is a text file, in which there is nothing to verify"});
  write("picture.png", "\x89PNG\r\n\x1a\n");
  expect_says(
      {"inspect", "picture.png"}, 3,
      {"picture.png: is of a kind that filigree neither writes nor reads", "inspect shows checkpoints, "});
  expect_says({"eval", "config.yaml"}, 3, {"config.yaml: is not a checkpoint but a text file"});
  // A checkpoint that is damaged still is one.
  fs::resize_file(path("r/checkpoints/best.h5"), 2000);
  expect_says({"inspect", "r/checkpoints/best.h5"}, 3, {"damaged"});
}

}  // namespace
}  // namespace filigree
