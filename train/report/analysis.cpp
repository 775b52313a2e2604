#include "train/report/analysis.h"

#include <algorithm>
#include <cmath>
#include <map>
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
    if (std::ranges::all_of(
            runs, [&](const RunData* run) { return run->summary.value(metric.key, Json()).is_number(); }))
      return metric;
  throw Error(ErrorKind::data, "there is no measure of quality that all of the runs have",
              "report those alone that have a loss, train for at least one step");
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

void sort_by_quality(Setting& setting, const Metric& metric) {
  std::ranges::stable_sort(setting.variants, [&](const Variant& a, const Variant& b) {
    return metric.higher_is_better ? a.interval.mean > b.interval.mean : a.interval.mean < b.interval.mean;
  });
}

// Tests the others against the first.
Verdict compare_with_first(Setting& setting) {
  auto& variants = setting.variants;
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
  const auto behind = std::ranges::count_if(variants, &Variant::significant);
  return tested.empty()                      ? Verdict::untested
         : behind == 0                       ? Verdict::even
         : behind < std::ssize(variants) - 1 ? Verdict::partly
                                             : Verdict::best;
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

// Where the seed splits off the validation text, only seeds that all variants have are a fair comparison. If
// there are none, the runs stay, and are found to be unlike.
void keep_shared_seeds(Setting& setting, std::vector<LeftOut>& left_out) {
  std::map<std::int64_t, std::string> missing;  // by seed, the first variant that does not have it
  for (const Variant& v : setting.variants)
    for (const RunData* run : v.runs) {
      if (!splits_by_seed(run->config)) return;
      const std::int64_t seed = run->config.seed;
      const auto without = std::ranges::find_if(setting.variants, [&](const Variant& other) {
        return std::ranges::none_of(other.runs, [&](const RunData* r) { return r->config.seed == seed; });
      });
      missing[seed] = without == setting.variants.end() ? "" : without->label;
    }
  if (std::ranges::none_of(missing, [](const auto& entry) { return entry.second.empty(); })) return;
  for (Variant& v : setting.variants)
    std::erase_if(v.runs, [&](const RunData* run) {
      const std::string& without = missing[run->config.seed];
      if (!without.empty())
        left_out.push_back(
            {run, fmt::format("its seed split off validation text of its own, and {} has no run of seed {}",
                              without, run->config.seed)});
      return !without.empty();
    });
}

[[noreturn]] void fail_without_runs(const Collection& collection) {
  const std::size_t n = collection.runs.size();
  std::string why;
  if (n > 0)
    why = fmt::format(": {} {}", collection.runs.front().folder.string(), collection.runs.front().problem);
  throw Error(ErrorKind::data, fmt::format("none of {} runs can be reported{}", n, why),
              "finish at least one of them");
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
  if (key == "val_accuracy") return fmt::format("{:.1f} %", 100 * value);
  return std::abs(value) < 1e5 ? fmt::format("{:.3f}", value) : fmt::format("{:.4g}", value);
}

std::string Metric::difference(double value) const {
  if (key == "val_accuracy") return fmt::format("{:.1f} points", 100 * value);
  return value < 0.01 ? fmt::format("{:.4f}", value) : text(value);
}

std::string word(Verdict verdict) {
  static const char* const words[] = {"single", "unlike", "untested", "even", "partly", "best"};
  return words[static_cast<int>(verdict)];
}

Analysis analyse(const Collection& collection) {
  Analysis out;
  out.noun = collection.noun;
  std::vector<const RunData*> good;
  for (const RunData& run : collection.runs) {
    if (run.problem.empty())
      good.push_back(&run);
    else
      out.left_out.push_back({&run, run.problem});
  }
  if (good.empty()) fail_without_runs(collection);
  out.metric = choose_metric(good);
  std::vector<std::string> labels;
  for (const RunData* run : good) {
    if (std::ranges::count(labels, run->label) == 0) labels.push_back(run->label);
    Variant& variant = variant_of(out, *run);
    variant.style = static_cast<std::size_t>(std::ranges::find(labels, run->label) - labels.begin());
    const auto same =
        std::ranges::find(variant.runs, run->config.seed, [](const RunData* r) { return r->config.seed; });
    if (same != variant.runs.end())
      out.left_out.push_back(
          {run, fmt::format("has the seed of {}, which counts", (*same)->folder.string())});
    else
      variant.runs.push_back(run);
  }
  for (Setting& setting : out.settings) {
    keep_shared_seeds(setting, out.left_out);
    std::vector<const RunData*> all;
    for (Variant& variant : setting.variants) {
      std::vector<double> values;
      for (const RunData* run : variant.runs) {
        values.push_back(run->summary.at(out.metric.key));
        variant.quality[run->config.seed] = values.back();
        all.push_back(run);
      }
      variant.interval = mean_interval(values);
      variant.cost = cost_of(variant.runs);
    }
    setting.circumstances = circumstances_of(collection, all, out.metric.key);
    if (!setting.circumstances.unlike.empty()) {
      setting.verdict = Verdict::unlike;
    } else if (setting.variants.size() > 1) {
      sort_by_quality(setting, out.metric);
      setting.verdict = compare_with_first(setting);
      find_front(setting, out.metric);
    }
  }
  return out;
}

std::string with_interval(const MeanInterval& interval, const Metric& metric) {
  if (interval.n < 2) return metric.text(interval.mean);
  return fmt::format("{} ± {}", metric.text(interval.mean), metric.difference(interval.half_width));
}

}  // namespace filigree
