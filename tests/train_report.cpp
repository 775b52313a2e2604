// The report: its statistics against values worked out by hand, what it concludes, and that its page is
// sound.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/report_runs.h"
#include "tests/run_fixture.h"
#include "train/record/summary.h"
#include "train/report/analysis.h"
#include "train/report/statistics.h"
#include "train/report/tables.h"

namespace filigree {
namespace {

using Json = nlohmann::json;

TEST(ReportStatistics, StudentsT) {
  // Tables of Student's t, and closed forms: one degree of freedom is Cauchy's distribution, P(T <= 1) = 3/4;
  // two: P(T <= t) = 1/2 + t / (2 sqrt(2 + t^2)).
  EXPECT_NEAR(student_quantile(0.975, 1), 12.706204736, 1e-8);
  EXPECT_NEAR(student_quantile(0.975, 2), 4.302652730, 1e-8);
  EXPECT_NEAR(student_quantile(0.95, 5), 2.015048373, 1e-8);
  EXPECT_NEAR(student_quantile(0.975, 10), 2.228138852, 1e-8);
  EXPECT_NEAR(student_quantile(0.025, 10), -2.228138852, 1e-8);
  EXPECT_NEAR(student_quantile(0.975, 1e7), 1.959964, 1e-5);
  EXPECT_NEAR(student_cdf(1, 1), 0.75, 1e-14);
  EXPECT_NEAR(student_cdf(-1, 1), 0.25, 1e-14);
  EXPECT_EQ(student_cdf(0, 3), 0.5);
  for (const double t : {0.01, 0.5, 1.0, 3.0, 20.0})
    EXPECT_NEAR(student_cdf(t, 2), 0.5 + t / (2 * std::sqrt(2 + t * t)), 1e-13) << t;
  for (const double p : {0.001, 0.3, 0.6, 0.999})
    for (const double df : {1.0, 1.47, 4.0, 60.0})
      EXPECT_NEAR(student_cdf(student_quantile(p, df), df), p, 1e-12) << p << " " << df;
}

TEST(ReportStatistics, IntervalsOfMeans) {
  const MeanInterval three = mean_interval(std::vector<double>{1, 2, 3});
  EXPECT_EQ(three.mean, 2);
  EXPECT_NEAR(three.half_width, 4.302652730 / std::sqrt(3.0), 1e-8);
  const MeanInterval one = mean_interval(std::vector<double>{5});
  EXPECT_EQ(one.mean, 5);
  EXPECT_EQ(one.half_width, 0);
  EXPECT_EQ(deviation_of(std::vector<double>{1, 3}), std::sqrt(2.0));
}

TEST(ReportStatistics, PairedWhereSeedsAreSharedElseWelch) {
  // Differences 1, 1.5, 1: mean 7/6, error 1/6, so t = 7 with 2 degrees of freedom.
  const Difference paired = compare({{1, 1.0}, {2, 2.0}, {3, 3.0}, {9, 0.0}}, {{1, 2.0}, {2, 3.5}, {3, 4.0}});
  EXPECT_EQ(paired.kind, TestKind::paired);
  EXPECT_EQ(paired.n, 3);
  EXPECT_NEAR(paired.mean, 7.0 / 6, 1e-12);
  EXPECT_NEAR(paired.p, 1 - 7 / std::sqrt(51.0), 1e-12);
  EXPECT_NEAR(paired.half_width, 4.302652730 / 6, 1e-8);
  // Means 2 and 7, variances 2 and 8: t = sqrt(5) with 25 / 17 degrees of freedom; p by numeric integration.
  const Difference welch = compare({{1, 1.0}, {2, 3.0}}, {{3, 5.0}, {4, 9.0}});
  EXPECT_EQ(welch.kind, TestKind::welch);
  EXPECT_NEAR(welch.mean, 5, 1e-12);
  EXPECT_NEAR(welch.p, 0.198727388934526, 1e-12);
  EXPECT_EQ(compare({{1, 1.0}, {2, 3.0}}, {{1, 5.0}}).kind, TestKind::none);
  EXPECT_EQ(compare({{1, 1.0}, {2, 3.0}}, {{1, 1.0}, {2, 3.0}}).p, 1) << "equal to the last bit";
  EXPECT_EQ(compare({{1, 1.0}, {2, 3.0}}, {{1, 2.0}, {2, 4.0}}).p, 0) << "the same difference each time";
}

TEST(ReportStatistics, Holm) {
  const auto adjusted = holm({0.01, 0.04, 0.03, 0.9});
  ASSERT_EQ(adjusted.size(), 4u);
  EXPECT_DOUBLE_EQ(adjusted[0], 0.04);
  EXPECT_DOUBLE_EQ(adjusted[1], 0.09) << "not below the smaller one's";
  EXPECT_DOUBLE_EQ(adjusted[2], 0.09);
  EXPECT_DOUBLE_EQ(adjusted[3], 0.9);
  EXPECT_EQ(holm({0.6, 0.7}).back(), 1);
}

// --- analysis and page ---

Collection made_collection() {
  Collection collection{"A sweep", "computed tiles per layer, within 5 %", {}};
  const double noise[] = {0.00, 0.02, 0.01};
  for (std::int64_t seed = 1; seed <= 3; ++seed) {
    const double n = noise[seed - 1];
    collection.runs.push_back(made_run("near", seed, 1.5 + n, 10, "{local: {window: 9}}"));
    collection.runs.push_back(made_run("all", seed, 1.2 + 2 * n, 20));
    collection.runs.push_back(
        made_run("mixed", seed, 1.9 - n, 12,
                 "{heads: [{count: 1, pattern: {local: {window: 9}}}, {count: 1, pattern: full}]}"));
  }
  return collection;
}

TEST(ReportAnalysis, FindsTheBestTheFrontAndWhatIsChance) {
  const Collection collection = made_collection();
  const Analysis analysis = analyse(collection);
  EXPECT_EQ(analysis.metric.key, "val_loss");
  ASSERT_EQ(analysis.settings.size(), 1u);
  const auto& variants = analysis.settings[0].variants;
  ASSERT_EQ(variants.size(), 3u);
  EXPECT_EQ(variants[0].label, "all");
  EXPECT_EQ(variants[1].label, "near");
  EXPECT_NEAR(variants[0].interval.mean, 1.22, 1e-12);
  EXPECT_EQ(variants[0].to_best.kind, TestKind::none);
  EXPECT_EQ(variants[1].to_best.kind, TestKind::paired);
  // Differences to the best 0.3, 0.28, 0.29: t = 0.29 / (0.01 / sqrt(3)) = 50.2; Holm doubles the smaller p.
  const double t = 0.29 / (0.01 / std::sqrt(3.0));
  const double p = 1 - t / std::sqrt(2 + t * t);
  EXPECT_NEAR(variants[1].to_best.p, p, 1e-9);
  EXPECT_NEAR(variants[1].p_adjusted, 2 * p, 1e-9);
  EXPECT_TRUE(variants[1].significant());
  EXPECT_TRUE(variants[0].on_front);
  EXPECT_TRUE(variants[1].on_front) << "fewer tiles than the best";
  EXPECT_FALSE(variants[2].on_front) << "near is better with fewer tiles";
  EXPECT_EQ(variants[1].cost.computed_pairs, 10 * 16 * 16);
  EXPECT_EQ(analysis.settings[0].verdict, Verdict::best);
  EXPECT_EQ(analysis.settings[0].winner(), &variants[0]);
  const auto sentences = findings(analysis.settings[0], analysis);
  EXPECT_EQ(sentences[0],
            "all is best: 1.220 ± 0.050 validation loss (mean and 95 % confidence interval over 3 seeds), "
            "ahead of near "
            "(1.510) by 0.290.");
  EXPECT_NE(sentences[1].find("The lead of all over near"), std::string::npos) << sentences[1];
  EXPECT_NE(sentences[1].find("paired by seed"), std::string::npos) << sentences[1];
}

TEST(ReportAnalysis, OneSeedProvesNothingAndBrokenRunsAreLeftOut) {
  Collection collection{"Runs", "", {made_run("a", 1, 2.0, 10), made_run("b", 1, 1.0, 10)}};
  RunData broken;
  broken.folder = "runs/broken";
  broken.problem = "is not finished";
  collection.runs.push_back(broken);
  const Analysis analysis = analyse(collection);
  EXPECT_EQ(analysis.left_out.size(), 1u);
  EXPECT_EQ(analysis.settings[0].verdict, Verdict::untested);
  EXPECT_EQ(analysis.settings[0].winner(), nullptr);
  const auto sentences = findings(analysis.settings[0], analysis);
  EXPECT_EQ(sentences[0],
            "No pattern is ahead: with fewer than two seeds there is no telling a lead from chance.");
  EXPECT_EQ(sentences[1],
            "b comes first: 1.000 validation loss (one seed), a follows (2.000, a difference of 1.000).");
  const Json figures = report_figures(collection, analysis);
  EXPECT_EQ(figures.dump().find("b is best"), std::string::npos);
  for (const Json& row : figures.at("settings").at(0).at("results").at("rows"))
    EXPECT_EQ(row.at("best"), false);
  EXPECT_EQ(figures.at("left_out"), (Json::array({{{"run", "runs/broken"}, {"why", "is not finished"}}})));
  EXPECT_NE(results_csv(collection, analysis).find("runs/broken,,,,is not finished,"), std::string::npos);
  EXPECT_NE(results_markdown(collection, analysis).find("- runs/broken: is not finished\n"),
            std::string::npos);
  EXPECT_EQ(
      printed_findings(analysis),
      "result    No pattern is ahead: with fewer than two seeds there is no telling a lead from chance.\n"
      "left out  runs/broken: is not finished");
  Collection tie{"Runs", "", {made_run("a", 1, 2.0, 10), made_run("b", 1, 2.0, 10)}};
  const Analysis tied = analyse(tie);
  EXPECT_EQ(findings(tied.settings[0], tied)[1],
            "a and b are exactly equal: 2.000 validation loss (one seed).");
  collection.runs.erase(collection.runs.begin(), collection.runs.begin() + 2);
  EXPECT_NE(error_text(ErrorKind::data, [&] { analyse(collection); }).find("runs/broken is not finished"),
            std::string::npos);
}

TEST(ReportAnalysis, SpeedsAreRankedOnlyIfRunsWereTimedAloneAndDifferMoreThanSeeds) {
  Collection collection = made_collection();
  const auto sentence = [&] {
    const Analysis analysis = analyse(collection);
    return findings(analysis.settings[0], analysis).back();
  };
  const auto csv = [&] { return results_csv(collection, analyse(collection)); };
  EXPECT_TRUE(sentence().starts_with("all trains fastest, 20.0 k tokens/s. ")) << sentence();
  for (RunData& run : collection.runs) run.beside_others = true;
  EXPECT_TRUE(sentence().starts_with("Speeds are not ranked: runs shared the machine")) << sentence();
  EXPECT_FALSE(analyse(collection).settings[0].variants[0].cost.timed_alone);
  EXPECT_NE(csv().find(",no,"), std::string::npos);
  // Alone, `near` takes a fifth of the time that it took beside others.
  for (RunData& run : collection.runs) run.alone_step_seconds = run.label == "near" ? 0.1 : 0.5;
  EXPECT_TRUE(sentence().starts_with("near trains fastest, 50.0 k tokens/s, 2.50 times as fast as all. "))
      << sentence();
  EXPECT_NE(csv().find(",50000.0,0.1,"), std::string::npos) << csv();
  EXPECT_EQ(csv().find(",no,"), std::string::npos);
  // With one seed as slow as the others it is not certain.
  collection.runs[0].alone_step_seconds = 0.3;
  EXPECT_TRUE(
      sentence().starts_with("No pattern is ahead in speed beyond the spread over seeds: near trains 50.0 k "
                             "(16.7 k to 50.0 k) tokens/s, and all may be as fast. "))
      << sentence();
}

TEST(ReportAnalysis, AccuracyIsHigherTheBetter) {
  Collection collection{"Runs", "", {made_run("a", 1, 2.0, 10), made_run("b", 1, 1.0, 10)}};
  collection.runs[0].summary["val_accuracy"] = 0.9;
  EXPECT_EQ(analyse(collection).metric.key, "val_loss") << "only one run has an accuracy";
  collection.runs[1].summary["val_accuracy"] = 0.6;
  const Analysis analysis = analyse(collection);
  EXPECT_EQ(analysis.settings[0].variants[0].label, "a");
  EXPECT_EQ(analysis.metric.text(0.9), "90.0 %");
}

// A reader of tags: every one closed in its order, attributes quoted, no id twice.
void expect_well_formed(const std::string& html) {
  const std::set<std::string> empty = {"meta", "!DOCTYPE"};
  std::vector<std::string> open;
  std::set<std::string> ids;
  for (std::size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const std::size_t end = html.find('>', at);
    ASSERT_NE(end, std::string::npos);
    std::string tag = html.substr(at + 1, end - at - 1);
    ASSERT_EQ(std::ranges::count(tag, '"') % 2, 0) << tag;
    if (tag[0] == '/') {
      ASSERT_FALSE(open.empty()) << tag;
      ASSERT_EQ(tag.substr(1), open.back()) << "at " << at;
      open.pop_back();
      continue;
    }
    const std::string name = tag.substr(0, tag.find_first_of(" \n/"));
    if (name == "style" || name == "script") at = html.find("</" + name + ">", at) - 1;
    if (!tag.ends_with('/') && !empty.contains(name)) open.push_back(name);
  }
  EXPECT_TRUE(open.empty()) << open.back();
  EXPECT_EQ(html.substr(0, html.find("<script")).find('&'), std::string::npos)
      << "the page itself needs no entity";
}

TEST(ReportPage, IsWellFormedAndNeedsNothingElse) {
  const Collection collection = made_collection();
  const Json made = report_figures(collection, analyse(collection));
  const std::string html = report_page(made);
  expect_well_formed(html);
  for (const char* outside :
       {"http:", "https:", "src=", "href=", "url(", "@import", "<link", "<img", "fetch(", "import("})
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  std::size_t scripts = 0;
  for (std::size_t at = html.find("<script"); at != std::string::npos; at = html.find("<script", at + 1))
    ++scripts;
  EXPECT_EQ(scripts, 2u) << "the figures, and what draws them";
  for (const char* part : {"prefers-color-scheme", "@media print", "scope: \"row\"", "scope: \"col\"",
                           "<noscript>", "html(\"details\"", "lang=\"en\"", "viewport", "id=\"in-short\"",
                           "id=\"heads\"", "role: \"img\", \"aria-label\": `${chart.title} ${chart.words}`",
                           "role: \"img\", \"aria-label\": p.words"})
    EXPECT_NE(html.find(part), std::string::npos) << part;
  const Json figures = figures_in(html);
  EXPECT_EQ(figures, made) << "the page holds all that report.json does";
  for (const char* part : {"A sweep", "near", "all", "mixed", "Loss by position."})
    EXPECT_TRUE(holds(figures, part)) << part;
  EXPECT_EQ(figures.at("subtitle"), "9 runs of 3 variants; held equal: computed tiles per layer, within 5 %");
  for (const char* part : {"Pareto", "head 1"})
    EXPECT_NE(figures.dump().find(part), std::string::npos) << part;
  EXPECT_NE(figures.at("configs").at(1).at("yaml").get<std::string>().find("window: 9"), std::string::npos);
  // Every picture says in words what it shows.
  std::size_t pictures = 0;
  for (const Json& chart : figures.at("settings").at(0).at("charts")) {
    ++pictures;
    for (const char* label : {"near", "all", "mixed"})
      EXPECT_NE(chart.at("words").get<std::string>().find(label), std::string::npos) << chart;
  }
  for (const Json& variant : figures.at("heads"))
    for (const Json& panel : variant.at("panels")) {
      ++pictures;
      EXPECT_NE(panel.at("words").get<std::string>().find(": what "), std::string::npos) << panel;
    }
  EXPECT_GT(pictures, 8u);
}

// A picture's rows: windows of 9 in 64 tokens, of which the first sees one, the last nine.
TEST(ReportPage, PicturesAreRunsOfShares) {
  const auto pattern = make_pattern(read_pattern(parse_yaml("{local: {window: 9}}", "pattern")), 0, 1, 1);
  const auto rows =
      pattern_picture(*std::make_shared<const TileLayout>(build_layout(*pattern, {64, true, 16}, 1)), 0);
  ASSERT_EQ(rows.size(), 64u);
  EXPECT_EQ(rows[0], "g.63");
  EXPECT_EQ(rows[8], "g9.55");
  EXPECT_EQ(rows[63], "a55g9");
}

TEST(ReportPage, AccuracyByDepthAndLength) {
  Collection collection{"Needles", "", {}};
  for (const int length : {64, 128})
    for (const char* label : {"near", "all"}) {
      RunData run = made_run(label, 1, 1.0, 10, "full", fmt::format("seq_len-{}", length));
      run.config.data.seq_len = length;
      run.summary["val_accuracy"] = 0.5;
      run.summary["val_accuracy_of"] = {{"depth 0 %", 0.126}, {"depth 100 %", 64.0 / length}};
      collection.runs.push_back(run);
    }
  Json figures = report_figures(collection, analyse(collection));
  EXPECT_EQ(figures.at("across").at("columns"), (Json{"pattern", "seq_len-64", "seq_len-128"}));
  ASSERT_EQ(figures.at("accuracy").size(), 2u);
  for (const std::size_t i : {0, 1}) {
    const Json& map = figures.at("accuracy").at(i);
    EXPECT_EQ(map.at("caption"), i == 0 ? "Accuracy of near, in %." : "Accuracy of all, in %.");
    EXPECT_EQ(map.at("columns"), (Json{"tokens", "64", "128"}));
    EXPECT_EQ(map.at("rows").at(0).at("cells"), (Json{"depth 0 %", 0.126, 0.126}));
    EXPECT_EQ(map.at("rows").at(1).at("cells"), (Json{"depth 100 %", 1.0, 0.5}));
  }
  collection.runs.resize(2);  // one length: variants by group
  figures = report_figures(collection, analyse(collection));
  ASSERT_EQ(figures.at("accuracy").size(), 1u);
  EXPECT_EQ(figures.at("accuracy").at(0).at("rows").at(0).at("cells"), (Json{"near", 0.126, 1.0}));
}

TEST(ReportPage, AccuracyByLengthIsAMapForEachVariant) {
  Collection collection{"Needles", "", {}};
  for (const int seed : {1, 2})
    for (const char* label : {"near", "all"}) {
      RunData run = made_run(label, seed, 1.0, 10);
      run.summary["val_accuracy"] = 0.5;
      // At 128 tokens the second seed has no needle at one depth.
      run.summary["val_by_length"] = {
          {{"length", 128}, {"accuracy", 0.25 * seed}, {"accuracy_of", {{"depth 0 %", 0.3 * seed}}}},
          {{"length", 64}, {"accuracy", 1.0}, {"accuracy_of", {{"depth 0 %", 1.0}, {"depth 100 %", 0.5}}}}};
      if (seed == 1) run.summary["val_by_length"][0]["accuracy_of"]["depth 100 %"] = 0.125;
      if (label == std::string("all")) run.summary.erase("val_by_length");
      collection.runs.push_back(run);
    }
  const Json maps = report_figures(collection, analyse(collection)).at("accuracy");
  ASSERT_EQ(maps.size(), 1u) << "near's; nothing is told apart of all";
  EXPECT_EQ(maps.at(0).at("caption"), "Accuracy of near, trained on 64 tokens, in %.");
  EXPECT_EQ(maps.at(0).at("columns"), (Json{"tokens", "64", "128"}));
  const Json& rows = maps.at(0).at("rows");
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows.at(0).at("cells"), (Json{"depth 0 %", 1.0, (0.3 + 0.6) / 2}));
  EXPECT_EQ(rows.at(1).at("cells"), (Json{"depth 100 %", 0.5, 0.125}));
  EXPECT_EQ(rows.at(2).at("cells"), (Json{"all", 1.0, 0.375}));
  const std::string markdown = results_markdown(collection, analyse(collection));
  EXPECT_NE(markdown.find("| pattern | 64 | 128 |\n| --- | ---: | ---: |\n"), std::string::npos) << markdown;
  EXPECT_NE(markdown.find("| near | 100.0 % | 37.5 % |\n"), std::string::npos) << markdown;
  EXPECT_NE(markdown.find("| all | – | – |\n"), std::string::npos) << markdown;
}

TEST(ReportPage, HostileNamesStayText) {
  const std::string evil =
      "<script>alert('x')</script>\"&|,\n\x01\xE2\x80\xA6 a name that is much longer than its place";
  Collection collection{evil, evil, {made_run(evil, 1, 2.0, 10), made_run("b", 1, 1.0, 10)}};
  collection.runs[0].setting = collection.runs[1].setting = evil;
  RunData broken;
  broken.folder = "runs/x";
  broken.problem = evil;
  collection.runs.push_back(broken);
  const Analysis analysis = analyse(collection);
  const std::string html = report_page(report_figures(collection, analysis));
  expect_well_formed(html);
  EXPECT_EQ(html.find("<script>alert"), std::string::npos);
  EXPECT_EQ(html.find("alert('x')</script"), std::string::npos);
  EXPECT_EQ(html.find('\x01'), std::string::npos);
  const Json figures = figures_in(html);
  EXPECT_EQ(figures.at("title"), evil);
  EXPECT_EQ(figures.at("left_out").at(0).at("why"), evil);
  EXPECT_TRUE(holds(figures.at("settings"), evil));
  const auto json = nlohmann::json::parse(results_json(collection, analysis));
  EXPECT_EQ(json.at("title"), evil);
  const std::string csv = results_csv(collection, analysis);
  EXPECT_NE(csv.find("\"<script>alert('x')</script>\"\"&|,\n"), std::string::npos) << csv;
  const std::string markdown = results_markdown(collection, analysis);
  EXPECT_NE(markdown.find("&\\|,"), std::string::npos) << markdown;
}

TEST(ReportPage, EveryCountOfRunsHasAPage) {
  for (int n : {1, 2, 12}) {
    Collection collection{"Runs", "", {}};
    for (int i = 0; i < n; ++i)
      collection.runs.push_back(
          made_run(fmt::format("pattern-with-a-long-name-{}", i), 1, 2 + 0.001 * i, 10));
    const Json figures = figures_in(report_page(report_figures(collection, analyse(collection))));
    EXPECT_EQ(figures.at("settings").at(0).at("results").at("rows").size(), static_cast<std::size_t>(n));
    EXPECT_EQ(figures.at("heads").size(), static_cast<std::size_t>(n));
  }
}

TEST_F(RunTest, ARunEndsWithItsSummary) {
  ASSERT_EQ(run({"train", "config.yaml"}).exit_code, 0);
  const auto summary = nlohmann::json::parse(slurp(path("full/summary.json")));
  const auto lines = metrics("full");
  const auto last = nlohmann::json::parse(lines.back());
  EXPECT_EQ(summary.at("steps"), 24);
  EXPECT_EQ(summary.at("val_loss"), last.at("val_loss"));
  EXPECT_EQ(summary.at("val_bits_per_byte"), last.at("val_bits_per_byte"));
  EXPECT_LE(summary.at("best_val_loss").get<double>(), summary.at("val_loss").get<double>());
  const auto& layer = summary.at("layers").at(0);
  EXPECT_EQ(layer.at("layers"), (std::vector<int>{0, 1}));
  EXPECT_EQ(layer.at("dense_tiles"), 2 * 6);
  EXPECT_EQ(layer.at("dense_pairs"), 2 * 48 * 49 / 2);
  EXPECT_GT(summary.at("timing").at("tokens_per_second"), 0);
  EXPECT_GT(summary.at("timing").at("peak_bytes"), 0);
}

TEST_F(RunTest, ReportsAnyRuns) {
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=8"}).exit_code, 0);
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=8", "pattern=full", "train.out=dense"}).exit_code, 0);
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=8", "pattern=full", "train.lr=1e-3", "train.out=slow"})
                .exit_code,
            0);
  fs::remove(path("dense/summary.json"));  // an older run
  fs::create_directories(path("begun"));
  write("begun/run.json", "{\"status\": \"unfinished\"}");
  const Outcome outcome = run({"report", "full", "dense", "slow", "begun", "-o", "page.html"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const std::string html = slurp(path("page.html"));
  expect_well_formed(html);
  const Json figures = Json::parse(slurp(path("page.json")));
  EXPECT_EQ(figures_in(html), figures);
  EXPECT_EQ(figures.at("configs").size(), 3u);
  for (const char* variant : {"longformer window 8 global 1", "full, train.lr: 0.01, train.min_lr: 0.001"})
    EXPECT_TRUE(holds(figures.at("configs"), variant)) << variant;
  EXPECT_NE(figures.at("configs").dump().find("\"full, train.lr: 0.001, train.min_lr: "), std::string::npos);
  EXPECT_EQ(figures.at("left_out").at(0).at("why"), "is not finished");
  // Other damage leaves a run out, and says so.
  write("slow/summary.json", "{\"layers\": [{\"layers\": 3}], \"timing\": {}}");
  ASSERT_EQ(run({"report", "full", "slow", "-o", "page.html", "--overwrite"}).exit_code, 0);
  const auto left_out = [&] { return Json::parse(slurp(path("page.json"))).at("left_out").at(0); };
  EXPECT_EQ(left_out().at("run"), "slow");
  EXPECT_TRUE(left_out().at("why").get<std::string>().starts_with("its files are damaged"));
  auto summary = nlohmann::json::parse(slurp(path("full/summary.json")));
  summary["val_by_length"] = {{{"length", "far"}}};
  write("full/summary.json", summary.dump());
  ASSERT_EQ(run({"report", "full", "dense", "-o", "page.html", "--overwrite"}).exit_code, 0);
  EXPECT_EQ(left_out().at("run"), "full");
  EXPECT_TRUE(left_out().at("why").get<std::string>().starts_with("its files are damaged"));
  const Outcome nothing = run({"report", "text", "-o", "none.html"});
  EXPECT_EQ(nothing.exit_code, 3);
  EXPECT_NE(nothing.output.find("text is no folder of a run or a sweep"), std::string::npos)
      << nothing.output;
}

}  // namespace
}  // namespace filigree
