#include "train/report/charts.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "attention/tile_layout.h"
#include "data/progress.h"
#include "train/report/tables.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kMaxPoints = 150;  // of a curve; more than a screen shows

Json chart(const char* kind, const std::string& title, const std::string& note, const std::string& words,
           const std::string& x, const std::string& y, const Json& series) {
  return {{"kind", kind}, {"title", title}, {"note", note},    {"words", words},
          {"x", x},       {"y", y},         {"series", series}};
}

// "local 2.345; full 2.300": what a chart shows, in words.
template <class Text>
std::string in_words(const Setting& setting, Text&& text) {
  std::string words;
  for (const Variant& v : setting.variants)
    words += fmt::format("{}{} {}", words.empty() ? "" : "; ", v.label, text(v));
  return words;
}

// A metric's values as its axis shows them.
double shown(double value, const Metric& metric) {
  return metric.key == "val_accuracy" ? 100 * value : value;
}
std::string axis_name(const Metric& metric) {
  return metric.key == "val_accuracy" ? "accuracy, %" : metric.name;
}

Json quality_chart(const Setting& setting, const Metric& metric) {
  Json series = Json::array();
  bool many = false;  // runs of some variant
  for (const Variant& v : setting.variants) {
    Json singles = Json::array();
    for (const auto& [seed, value] : v.quality)
      if (v.quality.size() > 1) singles.push_back(shown(value, metric));
    many |= v.quality.size() > 1;
    series.push_back({{"label", v.label},
                      {"style", v.style},
                      {"value", with_interval(v.interval, metric)},
                      {"mean", shown(v.interval.mean, metric)},
                      {"half_width", shown(v.interval.half_width, metric)},
                      {"singles", singles}});
  }
  const char* better = metric.higher_is_better ? "higher is better" : "lower is better";
  return chart("intervals", fmt::format("Quality: {}.", metric.name),
               many ? "Mean, 95 % confidence interval, and a tick for each seed." : "One run each.",
               in_words(setting, [&](const Variant& v) { return with_interval(v.interval, metric); }),
               fmt::format("{}, {}", axis_name(metric), better), "", series);
}

Json cost_chart(const Setting& setting, const Metric& metric, const char* title, const char* note,
                const char* x_name, double (*cost)(const Variant&), bool front) {
  Json series = Json::array();
  for (const Variant& v : setting.variants) {
    const double x = cost(v), y = shown(v.interval.mean, metric), half = shown(v.interval.half_width, metric);
    Json one = {{"label", v.label}, {"style", v.style}, {"points", {{x, y}}}, {"front", front && v.on_front}};
    if (half > 0) {
      one["low"] = {{x, y - half}};
      one["high"] = {{x, y + half}};
    }
    series.push_back(one);
  }
  const auto words = [&](const Variant& v) {
    return fmt::format("{} at {:.4g}", with_interval(v.interval, metric), cost(v));
  };
  return chart("points", title, note, in_words(setting, words), x_name, axis_name(metric), series);
}

// Lines, each the mean over the runs of a variant at each step that all of them have, with the extremes where
// there are several.
class Lines {
 public:
  void add(const std::string& label, std::int64_t style, const std::vector<Curve>& curves) {
    std::map<double, std::vector<double>> at;
    for (const Curve& curve : curves)
      for (const auto& [step, value] : curve) at[step].push_back(value);
    Curve mean, low, high;
    for (const auto& [step, values] : at) {
      if (values.size() != curves.size()) continue;
      mean.emplace_back(step, mean_of(values));
      if (curves.size() < 2) continue;
      low.emplace_back(step, std::ranges::min(values));
      high.emplace_back(step, std::ranges::max(values));
    }
    bands_ |= !low.empty();
    longest_ = std::max(longest_, std::ssize(mean));
    // The first tenth of a run falls steeply; what comes after decides the axis.
    for (auto i = std::ssize(mean) / 10; i < std::ssize(mean); ++i) top_ = std::max(top_, mean[i].second);
    if (!mean.empty())
      words_ += fmt::format("{}{} {:.4g}", series_.empty() ? "" : "; ", label, mean.back().second);
    series_.push_back({{"label", label}, {"style", style}, {"points", mean}, {"low", low}, {"high", high}});
  }

  std::int64_t longest() const { return longest_; }
  double top() const { return top_; }
  const char* band_note() const { return bands_ ? "Mean over seeds; the band spans them." : ""; }
  std::int64_t count() const { return std::ssize(series_); }
  Json chart_of(const char* title, const char* note, const char* x, const char* y) const {
    return chart("lines", title, note, words_, x, y, series_);
  }

 private:
  Json series_ = Json::array();
  std::string words_ = "At the end: ";
  std::int64_t longest_ = 0;
  double top_ = -INFINITY;
  bool bands_ = false;
};

// Means of consecutive steps, so that at most kMaxPoints are left.
Curve thinned(const Curve& curve) {
  const std::int64_t each = (std::ssize(curve) + kMaxPoints - 1) / kMaxPoints;
  if (each <= 1) return curve;
  Curve out;
  for (std::int64_t begin = 0; begin < std::ssize(curve); begin += each) {
    const std::int64_t end = std::min(begin + each, std::ssize(curve));
    double sum = 0;
    for (std::int64_t i = begin; i < end; ++i) sum += curve[i].second;
    out.emplace_back(curve[end - 1].first, sum / static_cast<double>(end - begin));
  }
  return out;
}

constexpr const char* kLossAxis = "loss, nats per token";

void add_curves(const Setting& setting, bool validation, Json& charts) {
  Lines lines;
  for (const Variant& v : setting.variants) {
    std::vector<Curve> curves;
    for (const RunData* run : v.runs)
      curves.push_back(validation ? run->validation : thinned(run->train_loss));
    lines.add(v.label, static_cast<std::int64_t>(v.style), curves);
  }
  if (lines.longest() < 3) return;
  charts.push_back(lines.chart_of(validation ? "Validation loss over training." : "Training loss.",
                                  lines.band_note(), "step", kLossAxis));
  charts.back()["top"] = lines.top();
}

// val_loss_by_position: [{"first": 4, "last": 7, "loss": 2.1}, ..], ranges of the tokens before a prediction.
void add_loss_by_position(const Setting& setting, Json& charts) {
  Lines lines;
  for (const Variant& v : setting.variants) {
    std::vector<Curve> curves;
    for (const RunData* run : v.runs) {
      if (!run->summary.contains("val_loss_by_position")) continue;
      Curve& curve = curves.emplace_back();
      for (const Json& bucket : run->summary["val_loss_by_position"]) {
        const double first = bucket.at("first"), last = bucket.at("last");
        curve.emplace_back(std::max(1.0, (first + last) / 2), bucket.at("loss"));
      }
    }
    if (!curves.empty()) lines.add(v.label, static_cast<std::int64_t>(v.style), curves);
  }
  // Where all targets stand at much the same place there is nothing to see.
  if (lines.longest() < 2) return;
  charts.push_back(lines.chart_of("Loss by position.", "What the model makes of a longer context.",
                                  "tokens before the predicted one", kLossAxis));
  charts.back()["log_x"] = true;
}

// A bar for each variant, `part` of it darker if given.
Json bars(const Setting& setting, const char* title, const char* note, std::string (*words)(const Cost&),
          double (*whole)(const Cost&), double (*part)(const Cost&) = nullptr) {
  Json series = Json::array();
  for (const Variant& v : setting.variants) {
    series.push_back(
        {{"label", v.label}, {"style", v.style}, {"value", words(v.cost)}, {"whole", whole(v.cost)}});
    if (part) series.back()["part"] = part(v.cost);
  }
  return chart("bars", title, note, in_words(setting, [&](const Variant& v) { return words(v.cost); }), "",
               "", series);
}

std::string tiles_text(const Cost& cost) {
  return fmt::format("{} computed, {} needed", percent_text(cost.tiles_of_full()),
                     percent_text(cost.exact_pairs / std::max(1.0, cost.dense_pairs)));
}

}  // namespace

Json setting_charts(const Setting& setting, const Metric& metric) {
  Json charts = Json::array({quality_chart(setting, metric)});
  if (setting.ranked()) {
    charts.push_back(cost_chart(
        setting, metric, "Quality against work.",
        "Ringed: nothing else is better in both (the Pareto front).", "% of full attention's tiles",
        [](const Variant& v) { return 100 * v.cost.tiles_of_full(); }, true));
    charts.push_back(cost_chart(
        setting, metric, "Quality against speed.", "Further right is faster.", "tokens per second",
        [](const Variant& v) { return v.cost.tokens_per_second; }, false));
  }
  add_curves(setting, true, charts);
  add_curves(setting, false, charts);
  add_loss_by_position(setting, charts);
  charts.push_back(bars(
      setting, "Work of attention.",
      "Pairs in computed tiles (pale) and pairs that the pattern needs (solid); the shares are of full "
      "attention's tiles and pairs.",
      tiles_text, [](const Cost& c) { return c.computed_pairs; },
      [](const Cost& c) { return c.exact_pairs; }));
  const bool timed =
      std::ranges::all_of(setting.variants, [](const Variant& v) { return v.cost.timed_alone; });
  charts.push_back(bars(
      setting, "Training speed.",
      timed ? "Median of all steps, with the range over runs; longer is faster."
            : "Not to be compared: runs shared the machine and were not all timed alone.",
      [](const Cost& c) { return rate_text(c) + " tokens/s"; },
      [](const Cost& c) { return c.tokens_per_second; }));
  charts.push_back(bars(
      setting, "Peak memory.", "Of the whole run; shorter is less.",
      [](const Cost& c) { return memory_text(c.peak_bytes); }, [](const Cost& c) { return c.peak_bytes; }));
  return charts;
}

Json learning_charts(const Variant& v) {
  struct Kind {
    const char *title, *note, *axis;
    std::vector<const char*> curves;  // of RunData::learning
  };
  static const Kind kinds[] = {{"Tiles.",
                                "Of all layers: computed, expected by the gates, and aimed at.",
                                "tiles",
                                {"computed", "expected", "aim"}},
                               {"Gates.",
                                "Shares: open from 0.9 on, closed below 0.1, and between.",
                                "share of gates",
                                {"open", "between", "closed"}},
                               {"Loss if hardened at that step.",
                                "Beside the loss of the gates as they were.",
                                "validation loss, nats per token",
                                {"as learned", "hardened"}}};
  Json charts = Json::array();
  for (const Kind& kind : kinds) {
    Lines lines;
    for (const char* name : kind.curves) {
      std::vector<Curve> curves;
      for (const RunData* run : v.runs)
        if (const auto curve = run->learning.find(name); curve != run->learning.end())
          curves.push_back(thinned(curve->second));
      if (!curves.empty()) lines.add(name, lines.count(), curves);
    }
    if (lines.longest() > 1) charts.push_back(lines.chart_of(kind.title, kind.note, "step", kind.axis));
  }
  return charts;
}

}  // namespace filigree
