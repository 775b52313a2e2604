// Which runs the report ranks: a winner only among runs that can be compared, and only if its lead is
// significant.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "tests/report_runs.h"
#include "tests/run_fixture.h"
#include "train/report/tables.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

RunData known(RunData run, const std::string& validation = "11111111") {
  run.summary["data"] = {{"train", "77777777"}, {"validation", validation}, {"tokenizer", "byte"}};
  return run;
}

// Two variants of three seeds each, the first clearly better.
Collection two_variants() {
  Collection collection{"Runs", "", {}};
  for (std::int64_t seed = 1; seed <= 3; ++seed)
    for (const auto& [label, loss] : {std::pair("near", 1.0), {"far", 2.0}}) {
      RunData run = known(made_run(label, seed, loss + 0.01 * static_cast<double>(seed), 10));
      run.folder = fmt::format("runs/{}-{}", label, seed);
      run.config.data.val = {"held-out"};
      run.config.data.val_fraction = 0;
      collection.runs.push_back(run);
    }
  return collection;
}

TEST(Comparable, RunsOfOneKindHaveAWinner) {
  const Collection collection = two_variants();
  const Analysis analysis = analyse(collection);
  EXPECT_EQ(analysis.settings[0].verdict, Verdict::best);
  EXPECT_EQ(differences_beside(analysis.settings[0], analysis), "");
}

// What each change of the variant "far" makes of the comparison.
TEST(Comparable, WhatHasToAgree) {
  struct Case {
    const char* key;
    std::function<void(RunData&)> change;
    const char* text;
  };
  const Case cases[] = {
      {"validation data", [](RunData& r) { r.summary["data"]["validation"] = "22222222"; },
       "validation data: held-out [11111111] (near), held-out [22222222] (far)"},
      {"validation data", [](RunData& r) { r.summary["data"]["validation"] = nullptr; },
       "validation data: held-out [11111111] (near), none (far)"},
      {"training data", [](RunData& r) { r.summary["data"]["train"] = "88888888"; },
       "training data: text [77777777] (near), text [88888888] (far)"},
      {"tokenizer", [](RunData& r) { r.summary["data"]["tokenizer"] = "bpe:1"; },
       "tokenizer: byte (near), bpe:1 (far)"},
      {"train.steps", [](RunData& r) { r.config.train.steps = 20; }, "train.steps: 10 (near), 20 (far)"},
      {"model.dim", [](RunData& r) { r.config.model.dim = 64; }, "model.dim: 32 (near), 64 (far)"},
      {"model.type", [](RunData& r) { r.config.model.type = ModelType::encoder_mlm; },
       "model.type: decoder (near), encoder_mlm (far)"},
      {"data.seq_len", [](RunData& r) { r.config.data.seq_len = 128; }, "data.seq_len: 64 (near), 128 (far)"},
      {"evaluated tokens", [](RunData& r) { r.config.train.eval_batches = 3; },
       "evaluated tokens: the first "},
  };
  for (const Case& c : cases) {
    Collection collection = two_variants();
    for (RunData& run : collection.runs)
      if (run.label == "far") c.change(run);
    const Analysis analysis = analyse(collection);
    const Setting& setting = analysis.settings[0];
    ASSERT_EQ(setting.verdict, Verdict::unlike) << c.key;
    EXPECT_EQ(setting.winner(), nullptr);
    EXPECT_TRUE(std::ranges::any_of(setting.circumstances.unlike, [&](const auto& d) {
      return d.key == c.key;
    })) << c.key;
    const auto sentences = findings(setting, analysis);
    ASSERT_EQ(sentences.size(), 1u) << "nothing is ranked";
    EXPECT_TRUE(sentences[0].starts_with("No winner: these runs cannot be compared. They differ in "))
        << sentences[0];
    for (const std::string& text :
         {sentences[0], results_markdown(collection, analysis), results_csv(collection, analysis),
          report_figures(collection, analysis).dump(), printed_findings(analysis)})
      EXPECT_TRUE(has(text, c.text)) << c.key << "\n" << text.substr(0, 2000);
    const std::string figures = report_figures(collection, analysis).dump();
    for (const char* ranking : {"is best", "\"best\":true", "Pareto front", "trains fastest"})
      EXPECT_FALSE(has(figures, ranking)) << c.key << ": " << ranking;
    const Json json = Json::parse(results_json(collection, analysis));
    EXPECT_TRUE(json["settings"][0]["winner"].is_null());
    EXPECT_EQ(json["settings"][0]["verdict"], "unlike");
    EXPECT_TRUE(json["settings"][0]["unlike"].contains(c.key)) << json["settings"][0];
  }
}

TEST(Comparable, WhatElseDiffersStandsOnTop) {
  Collection collection = two_variants();
  for (RunData& run : collection.runs)
    run.config.train.lr = run.label == "far" ? 0.5 : 0.1 * 0.1;  // 0.010000000000000002
  const Analysis analysis = analyse(collection);
  EXPECT_EQ(analysis.settings[0].verdict, Verdict::best);
  const std::string beside = "Beside the pattern, the runs differ in train.lr: 0.01 (near), 0.5 (far).";
  EXPECT_EQ(differences_beside(analysis.settings[0], analysis), beside);
  const std::string page = report_page(report_figures(collection, analysis)),
                    markdown = results_markdown(collection, analysis);
  EXPECT_EQ(figures_in(page).at("in_short").at(0).at("beside"), beside);
  EXPECT_LT(page.find("s.beside ?"), page.find("s.sentences.map")) << "before the headline";
  EXPECT_LT(markdown.find(beside), markdown.find("near is best"));
  EXPECT_TRUE(has(printed_findings(analysis), beside));
}

TEST(Comparable, WhatDoesNotChangeAResultMayDiffer) {
  Collection collection = two_variants();
  RunData& run = collection.runs[1];
  run.config.threads = 3;
  run.config.train.log_interval = 77;
  run.config.checkpoint.interval = 3;
  run.config.model.activation_checkpointing = true;
  run.config.data.train = {"the/same/text"};  // its fingerprint counts
  const Analysis analysis = analyse(collection);
  EXPECT_EQ(analysis.settings[0].verdict, Verdict::best);
  EXPECT_EQ(differences_beside(analysis.settings[0], analysis), "");
}

TEST(Comparable, ASweepMayVaryItsAxesButNeverTheValidationData) {
  Collection collection = two_variants();
  collection.swept = {"model.dim", "train.steps"};
  for (RunData& run : collection.runs)
    if (run.label == "far") {
      run.config.model.dim = 64;
      run.config.train.steps = 20;
    }
  EXPECT_EQ(analyse(collection).settings[0].verdict, Verdict::best);
  collection.swept = {"model.dim"};
  EXPECT_EQ(analyse(collection).settings[0].verdict, Verdict::unlike);
  collection.equal_time = true;
  EXPECT_EQ(analyse(collection).settings[0].verdict, Verdict::best);
  collection.swept = {"model.dim", "data.val"};
  for (RunData& run : collection.runs)
    if (run.label == "far") run.summary["data"]["validation"] = "22222222";
  EXPECT_EQ(analyse(collection).settings[0].verdict, Verdict::unlike);
}

TEST(Comparable, AnAxisThatChangesWhatIsAskedForIsNotRanked) {
  Collection collection = two_variants();
  collection.swept = {"data.documents"};
  const auto verdict_with = [&](std::int64_t targets_of_far) {
    for (RunData& run : collection.runs) {
      run.config.data.documents = run.label != "far";
      run.summary["val_targets"] = run.label == "far" ? targets_of_far : 100;
    }
    return analyse(collection).settings[0].verdict;
  };
  EXPECT_EQ(verdict_with(100), Verdict::best);
  EXPECT_EQ(verdict_with(103), Verdict::unlike) << "no separator stands before the documents";

  collection = two_variants();
  collection.swept = {"data.mask_probability"};
  for (RunData& run : collection.runs) {
    run.config.model.type = ModelType::encoder_mlm;
    run.config.data.mask_probability = run.label == "far" ? 0.5 : 0.15;
  }
  EXPECT_EQ(analyse(collection).settings[0].verdict, Verdict::unlike);
}

TEST(Comparable, TokenizersAreComparedByBytesOnAllOfTheText) {
  Collection collection = two_variants();
  collection.swept = {"data.tokenizer"};
  for (RunData& run : collection.runs) {
    run.config.train.eval_batches = 0;
    if (run.label != "far") continue;
    run.config.data.tokenizer = "bpe:x.json";
    run.config.model.vocab_size = 4000;
    run.summary["data"] = {{"train", "88888888"}, {"validation", "22222222"}, {"tokenizer", "bpe:1"}};
  }
  EXPECT_EQ(analyse(collection).settings[0].verdict, Verdict::unlike) << "a loss per token";
  for (RunData& run : collection.runs) run.summary["val_bits_per_byte"] = run.summary["val_loss"];
  EXPECT_EQ(analyse(collection).settings[0].verdict, Verdict::best);
  for (RunData& run : collection.runs) run.config.train.eval_batches = 20;
  EXPECT_EQ(analyse(collection).settings[0].verdict, Verdict::unlike)
      << "the first tokens are not the same text for both";
}

TEST(Comparable, OlderRunsAreComparedByTheirPaths) {
  Collection collection = two_variants();
  for (RunData& run : collection.runs) run.summary.erase("data");
  EXPECT_EQ(analyse(collection).settings[0].verdict, Verdict::best);
  for (RunData& run : collection.runs)
    if (run.label == "far") run.config.data.val = {"elsewhere"};
  const Analysis analysis = analyse(collection);
  EXPECT_TRUE(
      has(findings(analysis.settings[0], analysis)[0], "validation data: held-out (near), elsewhere (far)."));
  // One that knows its data and one that does not.
  Collection mixed = two_variants();
  mixed.runs[0].summary.erase("data");
  EXPECT_EQ(analyse(mixed).settings[0].verdict, Verdict::best);
}

TEST(Comparable, WhereTheSeedSplitsTheTextOnlySharedSeedsCount) {
  Collection collection = two_variants();
  for (RunData& run : collection.runs) {
    run.config.data.val.clear();
    run.config.data.val_fraction = 0.1;
    for (const char* part : {"train", "validation"})
      run.summary["data"][part] = fmt::format("{}{}", part, run.config.seed);
  }
  EXPECT_EQ(analyse(collection).settings[0].verdict, Verdict::best);
  Collection incomplete = collection;
  incomplete.runs.pop_back();  // the third seed of "far"
  Analysis analysis = analyse(incomplete);
  EXPECT_EQ(analysis.settings[0].variants[0].interval.n, 2);
  ASSERT_EQ(analysis.left_out.size(), 1u);
  EXPECT_EQ(analysis.left_out[0].run->folder, "runs/near-3");
  EXPECT_EQ(analysis.left_out[0].why,
            "its seed split off validation text of its own, and far has no run of seed 3");
  // One seed that has other data, and no seed in common.
  Collection other = collection;
  other.runs[3].summary["data"]["validation"] = "ffffffff";
  EXPECT_EQ(analyse(other).settings[0].verdict, Verdict::unlike);
  Collection apart{"Runs", "", {collection.runs[0], collection.runs[3]}};
  analysis = analyse(apart);
  EXPECT_EQ(analysis.settings[0].verdict, Verdict::unlike);
}

TEST(Comparable, HeadlinesSayNoMoreThanTheTestsDo) {
  Collection collection = two_variants();
  const double near[] = {1.0, 1.2, 1.1}, far[] = {1.15, 1.1, 1.2};
  std::size_t n = 0, f = 0;
  for (RunData& run : collection.runs) run.summary["val_loss"] = run.label == "near" ? near[n++] : far[f++];
  Analysis analysis = analyse(collection);
  EXPECT_EQ(analysis.settings[0].verdict, Verdict::even);
  EXPECT_EQ(findings(analysis.settings[0], analysis)[0],
            "No pattern is ahead: every difference may be chance.");
  EXPECT_EQ(Json::parse(results_json(collection, analysis))["settings"][0]["winner"], nullptr);
  EXPECT_TRUE(has(results_markdown(collection, analysis), "No pattern is ahead"));
  for (std::int64_t seed = 1; seed <= 3; ++seed) {
    RunData run = known(made_run("worse", seed, 5 + 0.01 * static_cast<double>(seed), 10));
    run.config.data = collection.runs[0].config.data;
    collection.runs.push_back(run);
  }
  collection.noun = "variant";
  analysis = analyse(collection);
  EXPECT_EQ(findings(analysis.settings[0], analysis)[0], "near is ahead of worse, but not of far.");
  EXPECT_EQ(analysis.settings[0].winner(), nullptr);
}

TEST(Comparable, OneVariantIsNotTheBest) {
  Collection collection{"Run", "", {known(made_run("a", 1, 2.0, 10))}};
  const Analysis analysis = analyse(collection);
  EXPECT_EQ(analysis.settings[0].verdict, Verdict::single);
  EXPECT_EQ(
      findings(analysis.settings[0], analysis),
      std::vector<std::string>{"a: 2.000 validation loss (one seed). There is nothing to compare it with."});
  const std::string figures = report_figures(collection, analysis).dump();
  for (const char* word : {"is best", "\"best\":true", "\"best\","}) EXPECT_FALSE(has(figures, word)) << word;
}

TEST(Comparable, TheSameSeedTwiceCountsOnce) {
  Collection collection = two_variants();
  collection.runs.push_back(collection.runs[0]);
  collection.runs.back().folder = "runs/again";
  const Analysis analysis = analyse(collection);
  EXPECT_EQ(analysis.settings[0].variants[0].interval.n, 3);
  ASSERT_EQ(analysis.left_out.size(), 1u);
  EXPECT_EQ(analysis.left_out[0].why, "has the seed of runs/near-1, which counts");
}

TEST_F(RunTest, ReportsNameNoWinnerAmongUnlikeRuns) {
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=4"}).exit_code, 0);
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=6", "pattern=full", "train.out=longer"}).exit_code, 0);
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=4", "pattern=full", "train.lr=1e30", "train.clip=0",
                 "train.out=bad"})
                .exit_code,
            4);
  const Json summary = Json::parse(read_file(path("full/summary.json")));
  EXPECT_EQ(summary["data"]["tokenizer"], "byte");
  EXPECT_EQ(summary["data"]["validation"],
            Json::parse(read_file(path("longer/summary.json")))["data"]["validation"]);
  const Outcome outcome = run({"report", "full", "longer", "bad", "-o", "page.html"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_TRUE(has(
      outcome.output,
      "result    No winner: these runs cannot be compared. They differ in train.steps: 4 (longformer window "
      "8 global 1), 6 (full).\n"))
      << outcome.output;
  EXPECT_TRUE(has(outcome.output, "left out  bad: failed: ")) << outcome.output;
  EXPECT_TRUE(has(outcome.output, "\npage      page.html\n")) << outcome.output;
  const std::string html = read_file(path("page.html"));
  EXPECT_TRUE(has(html, "No winner: these runs cannot be compared."));
  const auto left_out = figures_in(html).at("left_out").at(0);
  EXPECT_EQ(left_out.at("run"), "bad");
  EXPECT_TRUE(left_out.at("why").get<std::string>().starts_with("failed: "));
  EXPECT_LT(html.find("id=\"left-out\""), html.find("id=\"settings\"")) << "on top";
}

}  // namespace
}  // namespace filigree
