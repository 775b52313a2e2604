// Runs on files of tokens: whose tokenizer counts, what is recorded of it, and ids of which no more is known.
#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "tests/run_fixture.h"
#include "train/record/token_ids.h"

namespace filigree {
namespace {

class TokenFileRun : public RunTest {
 protected:
  void expect(std::vector<std::string> arguments, int exit_code, const std::string& words) {
    const Outcome outcome = run(std::move(arguments));
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.output;
    EXPECT_NE(outcome.output.find(words), std::string::npos) << "no '" << words << "' in:\n"
                                                             << outcome.output;
  }
  // a.h5, made with t.json; other.json is another tokenizer. The name of the first.
  std::string make_tokens() {
    for (const auto& [file, vocab] : {std::pair("t.json", "264"), std::pair("other.json", "262")})
      EXPECT_EQ(run({"tokenizer", "text", "-o", file, "--vocab", vocab}).exit_code, 0);
    EXPECT_EQ(run({"prepare", "text", "-o", "a.h5", "--tokenizer", "bpe:t.json"}).exit_code, 0);
    return make_tokenizer("bpe:" + path("t.json").string())->name();
  }
  void put_ids(const std::string& name, std::uint16_t below) {
    std::ofstream out(path(name), std::ios::binary);
    for (int i = 0; i < 4000; ++i) {
      const auto id = static_cast<std::uint16_t>(i == 0 ? below - 1 : (i * i + 7 * i) % below);
      out.write(reinterpret_cast<const char*>(&id), sizeof id);
    }
  }
  static std::vector<std::string> train_on(const std::string& file, std::vector<std::string> more = {}) {
    std::vector<std::string> all = {"train", "config.yaml", "data.train=[" + file + "]", "train.steps=4",
                                    "train.eval_interval=0"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::string recorded(const std::string& run) { return slurp(path(run) / "config.yaml"); }
};

TEST_F(TokenFileRun, AnotherTokenizerThanTheFilesIsRefused) {
  const std::string own = make_tokens();
  expect(train_on("a.h5", {"data.tokenizer=byte"}), 2,
         "data.tokenizer is byte, but a.h5 was made with " + own);
  expect(train_on("a.h5", {"data.tokenizer=bpe:other.json"}), 2, "but a.h5 was made with " + own);
  expect(train_on("a.h5", {"data.tokenizer=bpe:nothere.json"}), 3, "nothere.json");
  expect(train_on("a.h5", {"data.tokenizer=bpe:0123456789abcdef"}), 3, "that is a tokenizer's checksum");
  expect(train_on("text", {"data.tokenizer=" + own}), 3, "that is a tokenizer's checksum");
  EXPECT_FALSE(fs::exists(path("full")));
  expect(train_on("a.h5", {"data.tokenizer=bpe:t.json", "--dry-run"}), 0,
         fmt::format("tokenizer {}, 264 tokens\n", own));
}

TEST_F(TokenFileRun, TheFilesTokenizerIsRecorded) {
  const std::string own = make_tokens();
  ASSERT_EQ(run(train_on("a.h5")).exit_code, 0);
  EXPECT_NE(recorded("full").find(fmt::format("tokenizer: \"{}\"\n", own)), std::string::npos)
      << recorded("full");
  EXPECT_EQ(nlohmann::json::parse(slurp(path("full/run.json")))["tokenizer"], own);
  EXPECT_NE(read_checkpoint(path("full/checkpoints/best.h5")).config_yaml.find(own), std::string::npos);
  // What is recorded repeats the run, goes on with it and evaluates it, with no tokenizer's file about.
  fs::remove(path("t.json"));
  expect({"train", "full/config.yaml", "train.out=again"}, 0, fmt::format("tokenizer {}, 264 tokens\n", own));
  EXPECT_EQ(metrics("again"), metrics("full"));
  expect({"eval", "full"}, 0, "bits per byte");
  expect({"eval", "full", "data.tokenizer=byte"}, 2, "eval cannot override 'data.tokenizer'");
  ASSERT_EQ(run(train_on("text", {"train.out=bytes"})).exit_code, 0);
  EXPECT_NE(recorded("bytes").find("tokenizer: byte\n"), std::string::npos);
}

// Versions before this one recorded byte, whatever a token file held.
TEST_F(TokenFileRun, OlderCheckpointsGoOnAndAreEvaluated) {
  const std::string own = make_tokens();
  const auto train = [&](const std::string& out) {
    return train_on("a.h5", {"train.steps=60", "checkpoint.interval=0", "train.out=" + out});
  };
  ASSERT_EQ(run(train("full")).exit_code, 0);
  const Outcome evaluated = run({"eval", "full"});
  Process process = start(train("old"));
  ASSERT_TRUE(process.wait_for("step  1/60")) << process.output();
  process.send(SIGTERM);
  ASSERT_EQ(process.finish().exit_code, 75) << process.output();
  for (const std::string folder : {"full", "old"})
    for (const auto& entry : fs::directory_iterator(path(folder) / "checkpoints")) {
      CheckpointContents contents = read_checkpoint(entry.path());
      contents.config_yaml.replace(contents.config_yaml.find(own), own.size(), "byte");
      write_checkpoint(entry.path(), contents);
    }
  EXPECT_EQ(run({"eval", "full"}).output, evaluated.output);
  expect(train("old"), 0, "resume    old/checkpoints/");
  EXPECT_EQ(metrics("old"), metrics("full"));
  expect(train_on("a.h5", {"train.init_from=full", "train.out=tuned"}), 0, "from the weights of full");
}

TEST_F(TokenFileRun, FilesOfIdsRecordThatTheirTokenizerIsUnknown) {
  put_ids("ids.bin", 258);
  expect(train_on("ids.bin", {"data.tokenizer=byte"}), 2, "ids.bin holds ids only");
  expect(train_on("ids.bin"), 0, "tokenizer unknown: the files hold ids only, all below 258\n");
  EXPECT_NE(recorded("full").find("tokenizer: ids\n"), std::string::npos) << recorded("full");
  EXPECT_EQ(nlohmann::json::parse(slurp(path("full/run.json")))["tokenizer"], "ids");
  expect({"train", "full/config.yaml", "train.out=again"}, 0, "finished");
  EXPECT_EQ(metrics("again"), metrics("full"));
  expect({"eval", "full"}, 0, "targets");
  expect({"eval", "full", "--data", "text"}, 2, "is text, but data.tokenizer is ids");
}

TEST_F(TokenFileRun, IdsFitAnyModelThatKnowsThem) {
  ASSERT_EQ(run(train_on("text")).exit_code, 0);
  put_ids("ids.bin", 258);
  put_ids("wide.bin", 259);
  const Outcome evaluated = run({"eval", "full", "--data", "ids.bin"});
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.output;
  EXPECT_NE(
      evaluated.output.find("filigree: note: full/checkpoints/best.h5: the data holds ids of an unknown "
                            "tokenizer, the model was trained with byte: they are taken to be the same ids; "
                            "all are below the model's 258"),
      std::string::npos)
      << evaluated.output;
  expect({"eval", "full", "--data", "wide.bin"}, 3, "the model knows 258");
  expect(train_on("ids.bin", {"train.init_from=full", "model.vocab_size=258", "train.out=tuned"}), 0,
         "note      full/checkpoints/best.h5: the data holds ids of an unknown tokenizer");
}

TEST(TokenIds, UnlikeTokenizersAreRefusedAndUnknownOnesToldOf) {
  const auto note = [](const std::string& data, const std::string& model, std::int64_t size = 50257) {
    return require_fitting_tokens({data, size, {}, {}}, {model, 50257, "m.h5"});
  };
  for (const char* same : {"", "byte", "bpe:1", "gpt2", "task mqar"}) EXPECT_EQ(note(same, same), "");
  EXPECT_EQ(note("gpt2", "bpe:1"),
            "m.h5: the data holds ids of gpt2, the model was trained with bpe:1: they are taken to be the "
            "same ids; "
            "all are below the model's 50257");
  for (const auto& [data, model] :
       {std::pair("", "bpe:1"), std::pair("bpe:1", "gpt2"), std::pair("gpt2", ""), std::pair("byte", "")})
    EXPECT_NE(note(data, model), "") << data << model;
  for (const auto& [data, model] :
       {std::pair("byte", "bpe:1"), std::pair("bpe:2", "bpe:1"), std::pair("gpt2", "llama3"),
        std::pair("gpt2", "byte"), std::pair("", "task mqar"), std::pair("task mqar", "")})
    EXPECT_NE(error_text(ErrorKind::data, [&] { note(data, model); })
                  .find(fmt::format("m.h5: the data has the tokenizer '{}', the model was trained with '{}'",
                                    data, model)),
              std::string::npos);
  EXPECT_NE(error_text(ErrorKind::data, [&] { note("", "bpe:1", 50258); })
                .find("m.h5: the data has 50258 kinds of tokens, the model knows 50257"),
            std::string::npos);
}

TEST_F(TokenFileRun, ASweepOverTokenizersThatChangeNothingIsRefused) {
  make_tokens();
  const auto sweep = [&](const std::string& data, const std::string& values) {
    write("sweep.yaml", fmt::format("base: config.yaml\naxes:\n  data.tokenizer: {}\nout: sweep\n", values));
    return std::vector<std::string>{"ablate", "sweep.yaml", "train.steps=2", "data.train=[" + data + "]"};
  };
  expect(sweep("a.h5", "{bytes: byte, words: 'bpe:t.json'}"), 2, "(cell bytes)");
  expect(sweep("a.h5", "{own: auto, words: 'bpe:t.json'}"), 2,
         "sweep.yaml:3:3: cells own and words are the same run: both have the tokenizer bpe:");
  expect(sweep("text", "{one: 'bpe:t.json', bytes: byte, two: auto}"), 2,
         "cells bytes and two are the same run");
  EXPECT_FALSE(fs::exists(path("sweep/own")));
}

// What lies in a tokenizer's file decides whether a cell is still the one that was trained.
TEST_F(TokenFileRun, ASweepNoticesAnotherTokenizerInTheSamePlace) {
  make_tokens();
  write("sweep.yaml", "base: config.yaml\naxes:\n  data.tokenizer: {words: 'bpe:t.json'}\nout: sweep\n");
  const std::vector<std::string> command = {"ablate", "sweep.yaml", "train.steps=2"};
  expect(command, 0, "results   sweep/results.md");
  fs::rename(path("other.json"), path("t.json"));
  expect(command, 2, "words (data.tokenizer: bpe:");
}

}  // namespace
}  // namespace filigree
