// Runs with a byte-level BPE tokenizer: trained by the binary, and kept with the data and the model.
#include "data/tokenizer.h"
#include "tests/run_fixture.h"

namespace filigree {
namespace {

class TokenizerRun : public RunTest {
 protected:
  void train_tokenizer(const std::string& out, const std::string& vocab = "300") {
    const Outcome outcome = run({"tokenizer", "text", "-o", out, "--vocab", vocab, "--overwrite"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  }
  void expect(std::vector<std::string> arguments, int exit_code, const std::string& words) {
    const Outcome outcome = run(std::move(arguments));
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.output;
    EXPECT_NE(outcome.output.find(words), std::string::npos) << "no '" << words << "' in:\n"
                                                             << outcome.output;
  }
  // A run that a signal stops after its first step.
  void begin(const std::vector<std::string>& arguments) {
    Process process = start(arguments);
    ASSERT_TRUE(process.wait_for("step  1/24")) << process.output();
    process.send(SIGTERM);
    const Outcome outcome = process.finish();
    ASSERT_EQ(outcome.exit_code, 75) << outcome.output;
  }
  const std::vector<std::string> train_ = {"train", "config.yaml", "data.tokenizer=bpe:t.json"};
};

TEST_F(TokenizerRun, TheCommandTrainsATokenizer) {
  const Outcome outcome = run({"tokenizer", "text", "-o", "t.json", "--vocab", "262"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("read 6 files"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("t.json: 262 tokens, bpe:"), std::string::npos) << outcome.output;
  const auto tokenizer = make_tokenizer("bpe:" + path("t.json").string());
  EXPECT_EQ(tokenizer->vocab_size(), 262);
  EXPECT_EQ(tokenizer->separator(), 0u);
  expect({"tokenizer", "text", "-o", "l.json", "--style", "llama3", "--special", "<|end_of_text|>",
          "--special", "[MASK]"},
         0, "no further pair occurs 2 times: the vocabulary ends early");
  const auto llama = make_tokenizer("bpe:" + path("l.json").string());
  EXPECT_EQ(llama->separator(), 0u);
  EXPECT_EQ(llama->mask(), 1u);
  EXPECT_NE(slurp(path("l.json")).find("\"ignore_merges\": true"), std::string::npos);
  expect({"tokenizer", "text", "-o", "small.json", "--vocab", "200"}, 2, "it must have 257");
  expect({"tokenizer", "text/0.txt", "-o", "text/0.txt"}, 2, "is itself an input");
  expect({"tokenizer", "none", "-o", "t.json"}, 3, "no such file");
  expect({"tokenizer", "text", "-o", "no/folder/t.json"}, 5, "there is no folder");
}

TEST_F(TokenizerRun, TheTokenizerStaysWithTheModelWhenItsFileIsGone) {
  train_tokenizer("t.json");
  const Outcome trained = run(train_);
  ASSERT_EQ(trained.exit_code, 0) << trained.output;
  EXPECT_NE(trained.output.find("bits per byte"), std::string::npos) << trained.output;
  const Outcome evaluated = run({"eval", "full"});
  ASSERT_EQ(evaluated.exit_code, 0) << evaluated.output;

  fs::rename(path("t.json"), path("moved.json"));
  const Outcome again = run({"eval", "full"});
  EXPECT_EQ(again.output, evaluated.output);
  expect({"eval", "full", "--data", "text/0.txt"}, 0, "bits per byte");
  const Outcome generated =
      run({"generate", "full", "--prompt", "tile layout ", "--tokens", "20", "--temperature", "0"});
  EXPECT_EQ(generated.exit_code, 0) << generated.output;
  EXPECT_TRUE(generated.output.starts_with("tile layout ")) << generated.output;
  EXPECT_GT(generated.output.size(), std::string("tile layout ").size() + 20) << "tokens are words here";

  expect({"train", "config.yaml", "data.tokenizer=bpe:t.json", "train.out=new"}, 3, "t.json");
  expect({"train", "config.yaml", "data.tokenizer=bpe:t.json", "--overwrite"}, 3, "t.json");
}

// It takes the tokenizer from the checkpoint, or from wherever it lies now; the bits are the same.
TEST_F(TokenizerRun, ARunGoesOnWhenTheFileIsGoneOrMoved) {
  train_tokenizer("t.json");
  ASSERT_EQ(run({"train", "config.yaml", "data.tokenizer=bpe:t.json"}).exit_code, 0);
  for (const auto& [name, words] : {std::pair("t.json", "t.json is gone; taken from gone/checkpoints/"),
                                    std::pair("moved.json", "resume ")}) {
    const std::string tokenizer = std::string("data.tokenizer=bpe:") + name;
    begin({"train", "config.yaml", "data.tokenizer=bpe:t.json", "train.out=gone"});
    fs::rename(path("t.json"), path("moved.json"));
    expect({"train", "config.yaml", tokenizer, "train.out=gone"}, 0, words);
    EXPECT_EQ(metrics("gone"), metrics("full"));
    fs::rename(path("moved.json"), path("t.json"));
    fs::remove_all(path("gone"));
  }
}

TEST_F(TokenizerRun, AnotherTokenizerUnderTheSameNameIsNoticed) {
  train_tokenizer("t.json", "260");
  auto arguments = train_;
  arguments.push_back("model.vocab_size=300");
  begin(arguments);
  train_tokenizer("t.json", "264");
  expect(arguments, 3, "the tokenizer has changed since this checkpoint: 'bpe:");
  // Data encoded with it does not fit the model either.
  expect({"prepare", "text", "-o", "t.h5", "--tokenizer", "bpe:t.json"}, 0, "t.h5: ");
  expect({"eval", "full", "--data", "t.h5"}, 3, "the model was trained with 'bpe:");
}

TEST_F(TokenizerRun, TokenFilesTrainLikeTheTextTheyCameFrom) {
  train_tokenizer("t.json");
  ASSERT_EQ(run({"train", "config.yaml", "data.tokenizer=bpe:t.json", "data.val=[text/0.txt]",
                 "data.val_fraction=null", "train.steps=6"})
                .exit_code,
            0);
  ASSERT_EQ(run({"prepare", "text", "-o", "a.h5", "--tokenizer", "bpe:t.json"}).exit_code, 0);
  ASSERT_EQ(run({"prepare", "text/0.txt", "-o", "b.h5", "--tokenizer", "bpe:t.json"}).exit_code, 0);
  fs::remove(path("t.json"));
  const Outcome outcome = run({"train", "config.yaml", "data.train=[a.h5]", "data.val=[b.h5]",
                               "data.val_fraction=null", "train.steps=6", "train.out=files"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(metrics("files"), metrics("full"));
  expect({"generate", "files", "--prompt", "tile ", "--tokens", "5"}, 0, "tile ");
  expect({"eval", "files", "--data", "text/1.txt"}, 0, "bits per byte");
}

TEST_F(TokenizerRun, ACheckpointHoldsItsTokenizer) {
  train_tokenizer("t.json");
  auto arguments = train_;
  arguments.push_back("train.steps=1");
  ASSERT_EQ(run(arguments).exit_code, 0);
  const fs::path file = path("full/checkpoints/step_000001.h5");
  CheckpointContents contents = read_checkpoint(file);
  EXPECT_EQ(contents.tokenizer_json, slurp(path("t.json")));
  EXPECT_EQ(read_tokenizer(contents, "x")->name(), make_tokenizer("bpe:" + path("t.json").string())->name());
  EXPECT_NE(run({"inspect", file.string()}).output.find("tokenizer "), std::string::npos);
  contents.tokenizer_json = make_tokenizer("byte")->to_json();
  EXPECT_NE(error_text(ErrorKind::data, [&] { read_tokenizer(contents, "x.h5"); })
                .find("x.h5: it holds the tokenizer byte instead of bpe:"),
            std::string::npos);
  contents.tokenizer_json.clear();
  EXPECT_EQ(read_tokenizer(contents, "x"), nullptr);
}

}  // namespace
}  // namespace filigree
