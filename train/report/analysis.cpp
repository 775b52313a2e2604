#include "train/report/analysis.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "attention/tile_layout.h"
#include "data/progress.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

const std::vector<Metric>& metrics() {
  static const std::vector<Metric> list = {{"val_accuracy", "accuracy", true},
                                           {"val_bits_per_byte", "bits per byte", false},
                                           {"val_loss", "validation loss", false},
                                           {"train_loss", "training loss", false}};
  return list;
}

Metric choose_metric(const std::vector<const RunData*>& runs) {
  for (const Metric& metric : metrics())
    if (std::ranges::all_of(runs, [&](const RunData* run) { return run->summary.contains(metric.key); }))
      return metric;
  throw Error(ErrorKind::data, "no run has a loss in its metrics", "train for at least one step");
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t n = values.size();
  return n == 0 ? 0 : (values[(n - 1) / 2] + values[n / 2]) / 2;
}

Cost layers_cost(const Json& layers) {
  Cost cost;
  double count = 0;
  for (const Json& group : layers) {
    const auto n = static_cast<double>(group.at("layers").size());
    const double tile = group.at("tile"), tiles = group.at("computed_tiles");
    cost.computed_tiles += n * tiles;
    cost.dense_tiles += n * group.at("dense_tiles").get<double>();
    cost.computed_pairs += n * tiles * tile * tile;
    cost.exact_pairs += n * group.at("exact_pairs").get<double>();
    cost.dense_pairs += n * group.at("dense_pairs").get<double>();
    count += n;
  }
  for (double* sum :
       {&cost.computed_tiles, &cost.dense_tiles, &cost.computed_pairs, &cost.exact_pairs, &cost.dense_pairs})
    *sum /= std::max(1.0, count);
  return cost;
}

Cost cost_of(const std::vector<const RunData*>& runs) {
  Cost cost = layers_cost(runs.front()->summary.at("layers"));
  std::vector<double> rates, steps, seconds;
  for (const RunData* run : runs) {
    const Json& timing = run->summary.at("timing");
    const RunSpeed speed = speed_of(*run);
    rates.push_back(speed.tokens_per_second);
    steps.push_back(speed.step_seconds);
    cost.timed_alone = cost.timed_alone && speed.timed_alone;
    seconds.push_back(timing.value("train_seconds", 0.0));
    cost.peak_bytes = std::max(cost.peak_bytes, timing.value("peak_bytes", 0.0));
  }
  cost.tokens_per_second = median(rates);
  std::tie(cost.slowest, cost.fastest) = std::pair(std::ranges::min(rates), std::ranges::max(rates));
  cost.step_seconds = median(steps);
  cost.train_seconds = median(seconds);
  return cost;
}

void compare_with_best(Setting& setting, const Metric& metric) {
  auto& variants = setting.variants;
  std::ranges::stable_sort(variants, [&](const Variant& a, const Variant& b) {
    return metric.higher_is_better ? a.interval.mean > b.interval.mean : a.interval.mean < b.interval.mean;
  });
  std::vector<double> p;
  std::vector<std::size_t> tested;
  for (std::size_t v = 1; v < variants.size(); ++v) {
    variants[v].to_best = compare(variants.front().quality, variants[v].quality);
    if (variants[v].to_best.kind == TestKind::none) continue;
    p.push_back(variants[v].to_best.p);
    tested.push_back(v);
  }
  const auto adjusted = holm(p);
  for (std::size_t k = 0; k < tested.size(); ++k) variants[tested[k]].p_adjusted = adjusted[k];
}

void find_front(Setting& setting, const Metric& metric) {
  const double sign = metric.higher_is_better ? -1 : 1;
  for (Variant& v : setting.variants) {
    v.on_front = std::ranges::none_of(setting.variants, [&](const Variant& other) {
      const double quality = sign * (other.interval.mean - v.interval.mean);
      const double tiles = other.cost.computed_tiles - v.cost.computed_tiles;
      return quality <= 0 && tiles <= 0 && (quality < 0 || tiles < 0);
    });
  }
}

// Where a run belongs, made at its first one.
Variant& variant_of(Analysis& analysis, const RunData& run) {
  auto setting = std::ranges::find(analysis.settings, run.setting, &Setting::label);
  if (setting == analysis.settings.end()) {
    analysis.settings.push_back({run.setting, {}});
    setting = analysis.settings.end() - 1;
  }
  auto variant = std::ranges::find(setting->variants, run.label, &Variant::label);
  if (variant != setting->variants.end()) return *variant;
  setting->variants.emplace_back();
  setting->variants.back().label = run.label;
  return setting->variants.back();
}

[[noreturn]] void fail_without_runs(const Collection& collection) {
  const std::size_t n = collection.runs.size();
  std::string why;
  if (n > 0)
    why = fmt::format(": {} {}", collection.runs.front().folder.string(), collection.runs.front().problem);
  throw Error(ErrorKind::data, fmt::format("none of {} runs can be reported{}", n, why),
              "finish at least one of them");
}

std::string seeds_text(std::int64_t n) {
  return fmt::format("{} seed{}", n, n == 1 ? "" : "s");
}

std::string with_interval(const MeanInterval& interval, const Metric& metric) {
  if (interval.n < 2) return metric.text(interval.mean);
  return fmt::format("{} ± {}", metric.text(interval.mean), metric.difference(interval.half_width));
}

std::string p_text(double p) {
  return p < 0.001 ? "p < 0.001" : fmt::format("p = {:.2g}", p);
}

std::string best_sentence(const Setting& setting, const Metric& metric) {
  const Variant& best = setting.variants.front();
  std::string text =
      fmt::format("{} is best: {} {}", best.label, with_interval(best.interval, metric), metric.name);
  text += best.interval.n > 1
              ? fmt::format(" (mean and 95 % confidence interval over {})", seeds_text(best.interval.n))
              : " (one seed)";
  if (setting.variants.size() == 1) return text + ".";
  const Variant& second = setting.variants[1];
  const double lead = std::abs(second.interval.mean - best.interval.mean);
  if (lead == 0) return fmt::format("{}; {} is exactly as good.", text, second.label);
  return fmt::format("{}, ahead of {} ({}) by {}.", text, second.label, metric.text(second.interval.mean),
                     metric.difference(lead));
}

std::string joined(const std::vector<std::string>& names) {
  if (names.size() < 2) return names.empty() ? "" : names.front();
  return fmt::format("{} and {}", fmt::join(names.begin(), names.end() - 1, ", "), names.back());
}

std::string significance_sentence(const Setting& setting) {
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

RunSpeed speed_of(const RunData& run) {
  const Json& timing = run.summary.at("timing");
  const double step = timing.value("step_seconds", 0.0), alone = run.alone_step_seconds.value_or(step);
  return {timing.value("tokens_per_second", 0.0) * (alone > 0 ? step / alone : 1), alone,
          !run.beside_others || run.alone_step_seconds};
}

std::string rate_text(const Cost& cost) {
  const std::string slowest = human_count(cost.slowest), fastest = human_count(cost.fastest);
  const std::string rate = human_count(cost.tokens_per_second);
  return slowest == fastest ? rate : fmt::format("{} ({} to {})", rate, slowest, fastest);
}

std::string Metric::text(double value) const {
  return key == "val_accuracy" ? fmt::format("{:.1f} %", 100 * value) : fmt::format("{:.3f}", value);
}

std::string Metric::difference(double value) const {
  if (key == "val_accuracy") return fmt::format("{:.1f} points", 100 * value);
  return value < 0.01 ? fmt::format("{:.4f}", value) : fmt::format("{:.3f}", value);
}

Analysis analyse(const Collection& collection) {
  Analysis out;
  std::vector<const RunData*> good;
  for (const RunData& run : collection.runs) (run.problem.empty() ? good : out.left_out).push_back(&run);
  if (good.empty()) fail_without_runs(collection);
  out.metric = choose_metric(good);
  std::vector<std::string> labels;
  for (const RunData* run : good) {
    if (std::ranges::count(labels, run->label) == 0) labels.push_back(run->label);
    Variant& variant = variant_of(out, *run);
    variant.style = static_cast<std::size_t>(std::ranges::find(labels, run->label) - labels.begin());
    variant.runs.push_back(run);
    variant.quality[run->config.seed] = run->summary.at(out.metric.key);
  }
  for (Setting& setting : out.settings) {
    for (Variant& variant : setting.variants) {
      std::vector<double> values;
      for (const auto& [seed, value] : variant.quality) values.push_back(value);
      variant.interval = mean_interval(values);
      variant.cost = cost_of(variant.runs);
    }
    compare_with_best(setting, out.metric);
    find_front(setting, out.metric);
  }
  return out;
}

std::vector<std::string> findings(const Setting& setting, const Metric& metric) {
  std::vector<std::string> sentences = {best_sentence(setting, metric)};
  if (setting.variants.size() > 1) {
    sentences.push_back(significance_sentence(setting));
    sentences.push_back(cost_sentence(setting));
  }
  std::erase(sentences, "");
  return sentences;
}

}  // namespace filigree
