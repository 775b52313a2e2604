#include "train/report/findings.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "attention/tile_layout.h"

namespace filigree {
namespace {

std::string seeds_text(std::int64_t n) {
  return fmt::format("{} seed{}", n, n == 1 ? "" : "s");
}

// "a, b and c"; of many the first few.
std::string joined(std::vector<std::string> names) {
  constexpr std::size_t kShown = 6;
  if (names.size() > kShown) {
    const std::string more = fmt::format("{} more", names.size() - kShown + 1);
    names.resize(kShown - 1);
    names.push_back(more);
  }
  if (names.size() < 2) return names.empty() ? "" : names.front();
  return fmt::format("{} and {}", fmt::join(names.begin(), names.end() - 1, ", "), names.back());
}

// "2.830 ± 0.165 bits per byte (mean and 95 % confidence interval over 3 seeds)"
std::string quality_words(const Variant& v, const Metric& metric) {
  return fmt::format("{} {} ({})", with_interval(v.interval, metric), metric.name,
                     v.interval.n > 1
                         ? fmt::format("mean and 95 % confidence interval over {}", seeds_text(v.interval.n))
                         : "one seed");
}

std::string headline(const Setting& setting, const Analysis& analysis) {
  const Metric& metric = analysis.metric;
  const Variant& first = setting.variants.front();
  std::vector<std::string> worse, others, unlike;
  for (std::size_t v = 1; v < setting.variants.size(); ++v)
    (setting.variants[v].significant() ? worse : others).push_back(setting.variants[v].label);
  for (const KeyDifference& difference : setting.circumstances.unlike) unlike.push_back(difference.text());
  switch (setting.verdict) {
    case Verdict::single:
      return fmt::format("{}: {}. There is nothing to compare it with.", first.label,
                         quality_words(first, metric));
    case Verdict::unlike:
      return fmt::format("No winner: these runs cannot be compared. They differ in {}.",
                         fmt::join(unlike, "; "));
    case Verdict::untested:
      return fmt::format("No {} is ahead: with fewer than two seeds there is no telling a lead from chance.",
                         analysis.noun);
    case Verdict::even:
      return fmt::format("No {} is ahead: every difference may be chance.", analysis.noun);
    case Verdict::partly:
      return fmt::format("{} is ahead of {}, but not of {}.", first.label, joined(worse), joined(others));
    case Verdict::best:
      break;
  }
  const Variant& second = setting.variants[1];
  return fmt::format("{} is best: {}, ahead of {} ({}) by {}.", first.label, quality_words(first, metric),
                     second.label, metric.text(second.interval.mean),
                     metric.difference(std::abs(second.interval.mean - first.interval.mean)));
}

// The order of the means, where the headline does not say it.
std::string order_sentence(const Setting& setting, const Metric& metric) {
  if (setting.verdict == Verdict::best) return "";
  const Variant &first = setting.variants[0], &second = setting.variants[1];
  const double lead = std::abs(second.interval.mean - first.interval.mean);
  if (lead == 0)
    return fmt::format("{} and {} are exactly equal: {}.", first.label, second.label,
                       quality_words(first, metric));
  return fmt::format("{} comes first: {}, {} follows ({}, a difference of {}).", first.label,
                     quality_words(first, metric), second.label, metric.text(second.interval.mean),
                     metric.difference(lead));
}

std::string significance_sentence(const Setting& setting) {
  if (setting.verdict == Verdict::untested) return "";
  std::vector<std::string> worse, alike, untested;
  bool paired = false, welch = false;
  for (std::size_t v = 1; v < setting.variants.size(); ++v) {
    const Variant& variant = setting.variants[v];
    paired |= variant.to_best.kind == TestKind::paired;
    welch |= variant.to_best.kind == TestKind::welch;
    if (variant.to_best.kind == TestKind::none)
      untested.push_back(variant.label);
    else
      (variant.significant() ? worse : alike)
          .push_back(fmt::format("{} ({})", variant.label, p_text(variant.p_adjusted)));
  }
  const std::string& best = setting.variants.front().label;
  std::string text;
  if (!worse.empty()) text += fmt::format("The lead of {} over {} is significant. ", best, joined(worse));
  if (!alike.empty())
    text += fmt::format("{} lead over {} is not{}: it may be chance. ", worse.empty() ? "The" : "Its",
                        joined(alike), worse.empty() ? " significant" : "");
  if (!untested.empty())
    text +=
        fmt::format("With fewer than two seeds nothing can be said about chance for {}. ", joined(untested));
  if (paired || welch)
    text += fmt::format("Test: {}, two-sided, 5 %, p values after Holm's correction.",
                        paired && welch ? "t test, paired by seed where seeds are shared, Welch's otherwise"
                        : paired        ? "t test paired by seed"
                                        : "Welch's t test");
  if (text.ends_with(' ')) text.pop_back();
  return text;
}

// Who trains fastest, if that is more than the spread over seeds.
std::string speed_sentence(const Setting& setting) {
  const auto& variants = setting.variants;
  if (!std::ranges::all_of(variants, [](const Variant& v) { return v.cost.timed_alone; }))
    return "Speeds are not ranked: runs shared the machine and were not all timed alone";
  std::set<std::string> machines;
  for (const Variant& v : variants)
    for (const RunData* run : v.runs) {
      std::map<std::string, std::string> made = run->made;
      machines.insert(fmt::format("{} {} {}", made["host"], made["device"], made["threads"]));
    }
  if (machines.size() > 1) return "Speeds are not ranked: runs were made on machines or threads that differ";
  const Variant& fastest =
      *std::ranges::max_element(variants, {}, [](const Variant& v) { return v.cost.tokens_per_second; });
  std::vector<std::string> alike;
  for (const Variant& v : variants)
    if (&v != &fastest && v.cost.fastest >= fastest.cost.slowest) alike.push_back(v.label);
  if (!alike.empty())
    return fmt::format(
        "No pattern is ahead in speed beyond the spread over seeds: {} trains {} tokens/s, and {} "
        "may be as fast",
        fastest.label, rate_text(fastest.cost), joined(alike));
  std::string text = fmt::format("{} trains fastest, {} tokens/s", fastest.label, rate_text(fastest.cost));
  const Variant& best = variants.front();
  if (&best != &fastest && best.cost.tokens_per_second > 0)
    text += fmt::format(", {:.2f} times as fast as {}",
                        fastest.cost.tokens_per_second / best.cost.tokens_per_second, best.label);
  return text;
}

std::string cost_sentence(const Setting& setting) {
  const auto& variants = setting.variants;
  const std::string text = speed_sentence(setting);
  const auto tiles = [](const Variant& v) { return v.cost.tiles_of_full(); };
  // A share of a longer text's tiles says nothing beside that of a shorter one's.
  const auto same_length = [&](const Variant& v) {
    return v.cost.dense_pairs == variants.front().cost.dense_pairs;
  };
  if (!std::ranges::all_of(variants, same_length)) return text + ".";
  const double fewest = tiles(*std::ranges::min_element(variants, {}, tiles));
  std::vector<std::string> names;
  for (const Variant& v : variants)
    if (tiles(v) <= 1.005 * fewest) names.push_back(v.label);
  if (names.size() == variants.size())
    return fmt::format("{}. All compute {}.", text, of_full_text(fewest, 1));
  return fmt::format("{}. {} compute{} the fewest, {}.", text, joined(names), names.size() == 1 ? "s" : "",
                     of_full_text(fewest, 1));
}

}  // namespace

std::string p_text(double p) {
  return p < 0.001 ? "p < 0.001" : fmt::format("p = {:.2g}", p);
}

std::vector<std::string> findings(const Setting& setting, const Analysis& analysis) {
  std::vector<std::string> sentences = {headline(setting, analysis)};
  if (setting.ranked()) {
    sentences.push_back(order_sentence(setting, analysis.metric));
    sentences.push_back(significance_sentence(setting));
    sentences.push_back(cost_sentence(setting));
  }
  std::erase(sentences, "");
  return sentences;
}

std::string differences_beside(const Setting& setting, const Analysis& analysis) {
  std::vector<std::string> texts;
  for (const KeyDifference& difference : setting.circumstances.beside) texts.push_back(difference.text());
  return texts.empty()
             ? ""
             : fmt::format("Beside the {}, the runs differ in {}.", analysis.noun, fmt::join(texts, "; "));
}

std::string printed_findings(const Analysis& analysis) {
  constexpr std::size_t kShown = 5;
  std::vector<std::string> lines;
  for (const Setting& setting : analysis.settings) {
    const std::string name = setting.label.empty() ? "" : setting.label + ": ";
    lines.push_back(fmt::format("result    {}{}", name, headline(setting, analysis)));
    if (const std::string beside = differences_beside(setting, analysis); !beside.empty())
      lines.push_back("          " + beside);
  }
  const auto& left_out = analysis.left_out;
  for (std::size_t i = 0; i < std::min(left_out.size(), kShown); ++i)
    lines.push_back(fmt::format("left out  {}: {}", left_out[i].run->folder.string(), left_out[i].why));
  if (left_out.size() > kShown)
    lines.push_back(fmt::format("left out  {} more, see the page", left_out.size() - kShown));
  return fmt::format("{}", fmt::join(lines, "\n"));
}

}  // namespace filigree
