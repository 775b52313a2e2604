// What a model is evaluated on after its training: classes by name, the text that was held out, targets that
// are there.
#include <nlohmann/json.hpp>

#include "core/hdf5.h"
#include "data/bpe_tokenizer.h"
#include "tests/bpe_helpers.h"
#include "tests/run_fixture.h"
#include "train/record/summary.h"

namespace filigree {
namespace {

using Json = nlohmann::json;

class TrainedDataTest : public RunTest {
 protected:
  Outcome expect(std::vector<std::string> arguments, int exit_code, const std::string& words = "") {
    const Outcome outcome = run(std::move(arguments));
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.output;
    EXPECT_NE(outcome.output.find(words), std::string::npos) << "no '" << words << "' in:\n"
                                                             << outcome.output;
    return outcome;
  }
  Json evaluate(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"eval", "full", "--json"});
    return Json::parse(expect(arguments, 0).output, nullptr, false);
  }
  // A run that a signal stops after its first step.
  void begin(const std::vector<std::string>& arguments) {
    Process process = start(arguments);
    ASSERT_TRUE(process.wait_for("step  1/24")) << process.output();
    process.send(SIGTERM);
    const Outcome outcome = process.finish();
    ASSERT_EQ(outcome.exit_code, 75) << outcome.output;
  }
  // The checkpoint as an older version would have written it.
  void write_older(const fs::path& from, const std::string& name) {
    CheckpointContents contents = read_checkpoint(from);
    auto state = nlohmann::ordered_json::parse(contents.state_json);
    for (const char* key : {"classes", "validation"}) state.erase(key);
    contents.state_json = state.dump();
    write_checkpoint(path(name), contents);
  }
  void write_more(const std::string& name) { write(name, "another text that came later\n"); }
};

// --- classes ---

class ClassesTest : public TrainedDataTest {
 protected:
  ClassesTest() {
    for (const char* name : {"alpha", "beta", "gamma"}) {
      fs::create_directories(path("classes") / name);
      for (int i = 0; i < 6; ++i)
        write(fmt::format("classes/{}/{}", name, i), fmt::format("{} {}\n", std::string(9, name[1]), i));
    }
    fs::create_directories(path("some"));
    fs::create_directories(path("new"));
    for (const char* name : {"beta", "gamma"})
      fs::copy(path("classes") / name, path("some") / name, fs::copy_options::recursive);
    fs::copy(path("classes/alpha"), path("new/beta"), fs::copy_options::recursive);
    fs::copy(path("classes/alpha"), path("new/delta"), fs::copy_options::recursive);
  }
  std::vector<std::string> train(const std::vector<std::string>& more = {},
                                 const std::string& folder = "classes") const {
    std::vector<std::string> all = {"train",
                                    "config.yaml",
                                    "causal=false",
                                    "model.type=encoder_classifier",
                                    "data.val_fraction=0.25",
                                    "data.train=" + folder};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::vector<std::string> classes_of(const std::string& run) const {
    const CheckpointContents contents = read_checkpoint(find_checkpoint(path(run)));
    return trained_on(contents.state_json, run).classes;
  }
  const std::vector<std::string> names_ = {"alpha", "beta", "gamma"};
};

TEST_F(ClassesTest, AreMatchedByNameInEval) {
  expect(train(), 0);
  expect({"inspect", "full"}, 0, R"("classes":["alpha","beta","gamma"])");
  const auto sum = [](const Json& json) {
    return json.at("loss").get<double>() * json.at("targets").get<double>();
  };
  const Json all = evaluate({"--data", "classes"});
  const Json some = evaluate({"--data", "some", "--logits", "l.h5"});
  const Json alpha = evaluate({"--data", "classes/alpha"}), beta = evaluate({"--data", "some/beta"});
  const Json pair = evaluate({"--data", "classes/gamma/.", "some/../classes/alpha/"});
  EXPECT_EQ(all.at("targets"), 18);
  EXPECT_EQ(some.at("targets"), 12);
  EXPECT_EQ(beta.at("targets"), 6);
  EXPECT_NEAR(sum(some) + sum(alpha), sum(all), 1e-4);
  EXPECT_NEAR(sum(pair) + sum(beta), sum(all), 1e-4);

  const h5::Reader reader(path("l.h5"));
  EXPECT_EQ(reader.text("classes"), R"(["alpha","beta","gamma"])");
  std::vector<std::int32_t> targets(12);
  reader.read("targets", DType::i32, 12, targets.data());
  EXPECT_EQ(std::ranges::count(targets, 1), 6);
  EXPECT_EQ(std::ranges::count(targets, 2), 6);

  expect({"eval", "full", "--data", "new"}, 3,
         "new/delta: there is no class 'delta'; the classes are alpha, beta, gamma");
  // Without names the run's own data can be told to be the same, other data cannot be matched.
  write_older(find_checkpoint(path("full")), "older.h5");
  expect({"eval", "older.h5"}, 0, "accuracy");
  expect({"eval", "older.h5", "--data", "some"}, 3, "older.h5 does not tell the names of its classes");
}

TEST_F(ClassesTest, ValidationDataOfItsOwnMayLackSome) {
  expect(train({"data.val=some", "data.val_fraction=null", "train.steps=8"}), 0);
  EXPECT_EQ(evaluate({}), evaluate({"--data", "some"}));
  expect(train({"data.val=new", "data.val_fraction=null", "train.out=other"}), 3,
         "there is no class 'delta'");
}

TEST_F(ClassesTest, ARunThatTakesWeightsKeepsTheirMeaning) {
  expect(train({"train.steps=8"}), 0);
  std::vector<std::string> again = train({"train.init_from=full", "train.out=again"}, "some");
  begin(again);
  expect(again, 0, "resume ");
  EXPECT_EQ(classes_of("again"), names_);
  expect(train({"train.init_from=full", "train.out=third"}, "new"), 3,
         "there is no class 'delta'; the classes are alpha, beta, gamma");
  write_older(find_checkpoint(path("full")), "older.h5");
  expect(train({"train.init_from=older.h5", "train.out=third"}), 3, "does not tell the names of its classes");
}

TEST_F(ClassesTest, AResumedRunRefusesOtherNames) {
  begin(train());
  fs::rename(path("classes/alpha"), path("classes/zeta"));
  expect(train(), 3, "classes/zeta: there is no class 'zeta'; the classes are alpha, beta, gamma");
  fs::rename(path("classes/beta"), path("classes/alpha"));
  fs::rename(path("classes/zeta"), path("classes/beta"));
  expect(train(), 3, "the training data has changed since this checkpoint");
  fs::rename(path("classes/beta"), path("classes/zeta"));
  fs::rename(path("classes/alpha"), path("classes/beta"));
  fs::rename(path("classes/zeta"), path("classes/alpha"));
  expect(train(), 0, "resume ");
}

TEST_F(TrainedDataTest, ATasksClassesAreNamedToo) {
  expect({"train", "config.yaml", "model.type=encoder_classifier", "causal=false", "data.train=null",
          "data.val_fraction=null", "train.steps=2", "train.batch_size=2",
          "data.task={listops: {max_depth: 2, max_args: 2, min_length: 4, max_length: 20, val_samples: 4}}"},
         0);
  expect({"inspect", "full"}, 0, R"("classes":["0","1","2","3","4","5","6","7","8","9"])");
  expect({"eval", "full"}, 0, "accuracy");
}

// --- the text that was held out ---

TEST_F(TrainedDataTest, ASplitIsNotMadeAnew) {
  const char* refusal =
      "the data is not what this model was trained and validated on: files of text were added";
  expect({"train", "config.yaml", "train.steps=8"}, 0);
  const Json before = evaluate({});
  write_older(find_checkpoint(path("full")), "older.h5");
  write_more("text/later.txt");
  expect({"eval", "full"}, 3, refusal);
  expect({"eval", "full", "--logits", "l.h5"}, 3, "--data FILES");
  EXPECT_FALSE(fs::exists(path("l.h5")));
  expect({"harden", "full", "--layouts", "layouts", "--budget", "0.5"}, 3, refusal);
  expect({"harden", "full", "--layouts", "layouts", "--budget", "0.5", "--data", "text"}, 0);
  expect({"eval", "full", "--data", "text/later.txt"}, 0);
  // Of an older checkpoint the training text alone tells that the split is another.
  write("text/later.txt", std::string(40000, 'x'));
  expect({"eval", "older.h5"}, 3, refusal);
  fs::remove(path("text/later.txt"));
  EXPECT_EQ(evaluate({}), before);
  expect({"eval", "older.h5"}, 0);
  // What splits the same files in another way is refused, what does not is not.
  expect({"eval", "full", "data.val_fraction=0.5"}, 3, refusal);
  expect({"eval", "full", "data.seq_len=24"}, 0);
  expect({"eval", "full", "data.val=[text/0.txt]", "data.val_fraction=null"}, 0);
  fs::remove(path("text/0.txt"));
  expect({"eval", "full"}, 3, refusal);
}

TEST_F(TrainedDataTest, OnlyValidationFilesOfTheirOwnCount) {
  write("val.txt", "tile layout mask head\n");
  const std::vector<std::string> train = {"train", "config.yaml", "data.val=[val.txt]",
                                          "data.val_fraction=null"};
  begin(train);
  const Json before = evaluate({});
  write_more("text/later.txt");
  EXPECT_EQ(evaluate({}), before) << "the text is the one that was held out";
  expect(train, 3, "the training data has changed since this checkpoint");
  fs::remove(path("text/later.txt"));
  write_more("val.txt");
  expect({"eval", "full"}, 3, "files of val.txt were added");
  expect({"eval", "full", "--data", "val.txt"}, 0);
  expect(train, 3, "the validation data has changed since this checkpoint");
}

TEST_F(TrainedDataTest, ATokenFileThatHasGrownIsSplitNowhereElse) {
  expect({"prepare", "text/0.txt", "text/1.txt", "-o", "t.h5"}, 0);
  expect({"train", "config.yaml", "data.train=t.h5", "train.steps=8"}, 0);
  expect({"eval", "full"}, 0);
  fs::rename(path("t.h5"), path("small.h5"));
  expect({"prepare", "text", "-o", "t.h5"}, 0);
  expect({"eval", "full"}, 3, "files of t.h5 were added, removed or changed");
}

TEST_F(TrainedDataTest, WeightsOfAnotherSplitAreWarnedOf) {
  expect({"train", "config.yaml", "train.steps=2"}, 0);
  const char* warning = "was trained on another split of these files";
  const std::vector<std::string> next = {"train", "config.yaml", "train.steps=2", "train.init_from=full"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), next.begin(), next.end());
    return expect(more, 0).output;
  };
  EXPECT_EQ(with({"train.out=same", "train.lr=1e-4"}).find(warning), std::string::npos);
  EXPECT_NE(with({"train.out=other", "data.val_fraction=0.5"}).find(warning), std::string::npos);
  EXPECT_EQ(with({"train.out=own", "data.val_fraction=null", "data.val=[text/0.txt]"}).find(warning),
            std::string::npos);
}

TEST_F(TrainedDataTest, ARunWithoutValidationGetsNoneFromItsTrainingText) {
  expect({"train", "config.yaml", "data.val_fraction=0", "train.eval_interval=null",
          "train.eval_batches=null", "train.steps=8"},
         0);
  expect({"eval", "full"}, 2, "this model has no validation data; name some with --data");
  expect({"eval", "full", "data.val_fraction=0.2"}, 3, "is not what this model was trained and validated on");
}

// --- targets ---

class TargetsTest : public TrainedDataTest {
 protected:
  std::vector<std::string> masked(const std::vector<std::string>& more) const {
    std::vector<std::string> all = {"train", "config.yaml", "model.type=encoder_mlm", "causal=false"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

TEST_F(TargetsTest, ValidationWithoutOneIsRefusedBeforeTheFirstStep) {
  write("tiny.txt", "ab");
  const Outcome outcome =
      expect(masked({"data.val=[tiny.txt]", "data.val_fraction=null", "data.mask_probability=1e-9"}), 3,
             "there is nothing to evaluate on: none of the 3 tokens of the text is masked, with a "
             "data.mask_probability of 1e-09");
  EXPECT_EQ(outcome.output.find("step "), std::string::npos) << outcome.output;
  EXPECT_FALSE(fs::exists(path("full/run.json")));
  expect({"train", "config.yaml", "data.train=null", "data.val_fraction=null", "train.eval_batches=1",
          "data.task={planted: {rules: [{sink: 0}], ask: 1e-9, val_samples: 4}}"},
         3, "the samples of the task 'planted' ask for nothing");
}

TEST_F(TargetsTest, EvaluatedTextWithoutOneIsAnError) {
  expect(masked({"train.steps=4", "data.mask_probability=0.3"}), 0, "validation loss");
  write("tiny.txt", "a");
  expect({"eval", "full", "data.mask_probability=1e-9", "--data", "tiny.txt"}, 3,
         "none of the 2 tokens of the text is masked");
  expect({"eval", "full", "--json", "data.mask_probability=1e-9", "--data", "tiny.txt"}, 3);
}

TEST_F(TargetsTest, StepsWithoutOneHaveNoLoss) {
  const Outcome outcome = expect(masked({"data.val_fraction=0", "train.eval_interval=null",
                                         "train.eval_batches=null", "data.mask_probability=1e-9"}),
                                 0, "tokens is a target: it has no loss and a gradient of zero");
  EXPECT_EQ(outcome.output.find("none of its", outcome.output.find("none of its") + 1), std::string::npos)
      << "it is said once: " << outcome.output;
  EXPECT_NE(outcome.output.find("step 24/24 | loss - | grad norm 0.000"), std::string::npos)
      << outcome.output;
  const auto lines = metrics("full");
  ASSERT_EQ(lines.size(), 24u);
  for (const std::string& line : lines) {
    const Json json = Json::parse(line);
    EXPECT_FALSE(json.contains("loss")) << line;
    EXPECT_EQ(json.at("targets"), 0) << line;
  }
  const Json summary = Json::parse(std::ifstream(path("full/summary.json")));
  EXPECT_EQ(summary.at("steps"), 24);
  EXPECT_FALSE(summary.contains("train_loss"));
}

// The mean of a window is one over the steps that have a loss.
TEST_F(TargetsTest, SomeStepsWithoutOneDoNotLowerTheLoss) {
  const Outcome outcome =
      expect(masked({"data.val_fraction=0", "train.eval_interval=null", "train.eval_batches=null",
                     "data.mask_probability=0.02", "data.seq_len=16", "train.batch_size=2", "train.steps=60",
                     "train.log_interval=60"}),
             0);
  double least = 1e9;
  int without = 0;
  for (const std::string& line : metrics("full")) {
    const Json json = Json::parse(line);
    if (json.contains("loss"))
      least = std::min(least, json.at("loss").get<double>());
    else
      ++without;
  }
  EXPECT_GT(without, 0);
  EXPECT_LT(without, 60);
  EXPECT_GT(least, 0);
  const auto printed = outcome.output.find("step 60/60 | loss ");
  ASSERT_NE(printed, std::string::npos) << outcome.output;
  EXPECT_GE(std::stod(outcome.output.substr(printed + 18)), least);
  const Json summary = Json::parse(std::ifstream(path("full/summary.json")));
  EXPECT_EQ(summary.at("steps"), 60);
  EXPECT_GE(summary.at("train_loss").get<double>(), least);
}

// Older versions wrote a loss of 0 where nothing was to be predicted.
TEST_F(TargetsTest, ALossOverNoneOfAnOlderRunDoesNotCount) {
  write("metrics.jsonl",
        "{\"step\": 1, \"loss\": 2, \"tokens\": 4}\n{\"step\": 1, \"val_loss\": 0.0, \"val_targets\": 0}\n"
        "{\"step\": 2, \"loss\": 1, \"tokens\": 4}\n{\"step\": 2, \"val_loss\": 3.0, \"val_targets\": 5}\n");
  EXPECT_EQ(summarize(path("metrics.jsonl"), {}).at("best_val_loss"), 3.0);
}

TEST_F(TargetsTest, DocumentsThatNothingSeparatesAreToldOf) {
  write("plain.json", BpeTokenizer(make_model({})).to_json());
  const std::vector<std::string> train = {"train", "config.yaml", "data.tokenizer=bpe:plain.json",
                                          "train.steps=8"};
  expect(train, 0,
         "has no separator token: the first token of a document is not predicted, nor where a document ends");
  const Json apart = evaluate({"--data", "text"}), one = evaluate({"data.documents=false", "--data", "text"});
  EXPECT_EQ(one.at("targets").get<int>(), apart.at("targets").get<int>() + 5) << "six documents";
  std::vector<std::string> stream = train;
  stream.insert(stream.end(), {"data.documents=false", "train.out=stream"});
  EXPECT_EQ(expect(stream, 0).output.find("no separator"), std::string::npos);
  EXPECT_EQ(
      expect({"train", "config.yaml", "train.out=bytes", "train.steps=8"}, 0).output.find("no separator"),
      std::string::npos);
}

}  // namespace
}  // namespace filigree
