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
#include "train/report/html.h"
#include "train/report/statistics.h"
#include "train/report/svg.h"
#include "train/report/tables.h"

namespace filigree {
namespace {

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

TEST(ReportCharts, TicksAreRound) {
  const AxisScale axis(0.13, 0.98, 0, 100);
  for (const double tick : axis.ticks(5)) {
    EXPECT_GE(tick, 0.13);
    EXPECT_LE(tick, 0.98);
    EXPECT_NEAR(tick * 10, std::round(tick * 10), 1e-9) << tick;
  }
  EXPECT_GE(axis.ticks(5).size(), 3u);
  EXPECT_EQ(AxisScale(2, 2, 0, 1).at(2), 0) << "an empty range has a place all the same";
  EXPECT_EQ(tick_text(0.25, 0.05), "0.25");
  EXPECT_EQ(tick_text(40000, 10000), "40 k");
  EXPECT_EQ(tick_text(2.5, 2.5), "2.5");
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
  const std::string html = report_html(collection, analysis);
  EXPECT_EQ(html.find("b is best"), std::string::npos);
  EXPECT_EQ(html.find("<tr class=\"best\">"), std::string::npos);
  EXPECT_NE(html.find("<code>runs/broken</code>: is not finished"), std::string::npos);
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
    if (name == "style") at = html.find("</style>", at) - 1;
    if (!tag.ends_with('/') && !empty.contains(name)) open.push_back(name);
  }
  EXPECT_TRUE(open.empty()) << open.back();
  // A text's & begins an entity.
  for (std::size_t at = html.find('&'); at != std::string::npos; at = html.find('&', at + 1)) {
    const std::string entity = html.substr(at, html.find(';', at) - at);
    EXPECT_TRUE((std::set<std::string>{"&amp", "&lt", "&gt", "&quot", "&#39"}.contains(entity))) << entity;
  }
}

TEST(ReportPage, IsWellFormedAndNeedsNothingElse) {
  const Collection collection = made_collection();
  const std::string html = report_html(collection, analyse(collection));
  expect_well_formed(html);
  for (const char* outside :
       {"http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link", "<img"})
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  for (const char* part :
       {"A sweep", ">near<", ">all<", ">mixed<", "computed tiles per layer, within 5 %",
        "prefers-color-scheme", "@media print", "scope=\"row\"", "scope=\"col\"", "Loss by position",
        "Pareto", "head 1", "window: 9", "<details>", "lang=\"en\"", "viewport"})
    EXPECT_NE(html.find(part), std::string::npos) << part;
  // Every picture says in words what it shows.
  std::size_t pictures = 0, named = 0;
  for (std::size_t at = html.find("<svg class="); at != std::string::npos;
       at = html.find("<svg class=", at + 1)) {
    ++pictures;
    named += html.substr(at, html.find('>', at) - at).find("role=\"img\" aria-label=\"") != std::string::npos;
  }
  EXPECT_GT(pictures, 8u);
  EXPECT_EQ(named, pictures);
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
  std::string html = report_html(collection, analyse(collection));
  expect_well_formed(html);
  for (const char* part :
       {"Across settings", "Accuracy of near, in %", "Accuracy of all, in %", "<th scope=\"col\">128</th>",
        "<th scope=\"row\">depth 100 %</th><td class=\"h6\">100</td><td class=\"h3\">50</td>",
        "<td class=\"h1\">13</td>"})
    EXPECT_NE(html.find(part), std::string::npos) << part;
  collection.runs.resize(2);  // one length: variants by group
  html = report_html(collection, analyse(collection));
  expect_well_formed(html);
  EXPECT_NE(html.find("<th scope=\"row\">near</th><td class=\"h1\">13</td><td class=\"h6\">100</td>"),
            std::string::npos);
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
  const std::string html = report_html(collection, analyse(collection));
  expect_well_formed(html);
  for (const char* part :
       {"Accuracy of near, trained on 64 tokens, in %",
        "<th scope=\"col\">tokens</th><th scope=\"col\">64</th><th scope=\"col\">128</th>",
        "<th scope=\"row\">depth 0 %</th><td class=\"h6\">100</td><td class=\"h3\">45</td>",
        "<th scope=\"row\">depth 100 %</th><td class=\"h3\">50</td><td class=\"h1\">12</td>",
        "<th scope=\"row\">all</th><td class=\"h6\">100</td><td class=\"h2\">38</td>"})
    EXPECT_NE(html.find(part), std::string::npos) << part;
  EXPECT_EQ(html.find("Accuracy of all"), std::string::npos);
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
  const std::string html = report_html(collection, analysis);
  expect_well_formed(html);
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find('\x01'), std::string::npos);
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
    expect_well_formed(report_html(collection, analyse(collection)));
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
  for (const char* part : {">longformer window 8 global 1<", ">full, train.lr: 0.01, train.min_lr: 0.001<",
                           ">full, train.lr: 0.001, train.min_lr: ", "is not finished"})
    EXPECT_NE(html.find(part), std::string::npos) << part;
  // Other damage leaves a run out, and says so.
  write("slow/summary.json", "{\"layers\": [{\"layers\": 3}], \"timing\": {}}");
  ASSERT_EQ(run({"report", "full", "slow", "-o", "page.html", "--overwrite"}).exit_code, 0);
  EXPECT_NE(slurp(path("page.html")).find("<code>slow</code>: its files are damaged"), std::string::npos);
  auto summary = nlohmann::json::parse(slurp(path("full/summary.json")));
  summary["val_by_length"] = {{{"length", "far"}}};
  write("full/summary.json", summary.dump());
  ASSERT_EQ(run({"report", "full", "dense", "-o", "page.html", "--overwrite"}).exit_code, 0);
  EXPECT_NE(slurp(path("page.html")).find("<code>full</code>: its files are damaged"), std::string::npos);
  const Outcome nothing = run({"report", "text", "-o", "none.html"});
  EXPECT_EQ(nothing.exit_code, 3);
  EXPECT_NE(nothing.output.find("text is no folder of a run or a sweep"), std::string::npos)
      << nothing.output;
}

}  // namespace
}  // namespace filigree
