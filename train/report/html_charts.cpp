#include "train/report/html_charts.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <span>

#include "attention/explain_picture.h"
#include "data/progress.h"
#include "train/report/head_layouts.h"
#include "train/report/html.h"
#include "train/report/svg.h"
#include "train/report/tables.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxPoints = 150;                         // of a curve; more than a screen shows
constexpr std::size_t kOpenPictures = 8, kFoldedPictures = 56;  // of a variant, at most

std::string figure(const std::string& title, const std::string& note, const std::string& svg) {
  return fmt::format(
      "<figure class=\"card\">\n<figcaption><strong>{}</strong>{}{}</figcaption>\n{}</figure>\n",
      escape_html(title), note.empty() ? "" : " ", escape_html(note), svg);
}

// "local 2.345, full 2.300": what a chart shows, in words.
template <class Text>
std::string in_words(const Setting& setting, Text&& text) {
  std::string words;
  for (const Variant& v : setting.variants)
    words += fmt::format("{}{} {}", words.empty() ? "" : "; ", v.label, text(v));
  return words;
}

std::string better(const Metric& metric) {
  return metric.higher_is_better ? "higher is better" : "lower is better";
}

std::string value_text(const Variant& v, const Metric& metric) {
  return metric.text(v.interval.mean) +
         (v.interval.n > 1 ? fmt::format(" ± {}", metric.difference(v.interval.half_width)) : "");
}

// A metric's values as its axis shows them.
double shown(double value, const Metric& metric) {
  return metric.key == "val_accuracy" ? 100 * value : value;
}
std::string axis_name(const Metric& metric) {
  return metric.key == "val_accuracy" ? "accuracy, %" : metric.name;
}

std::string quality_figure(const Setting& setting, const Metric& metric) {
  std::vector<DotRow> rows;
  for (const Variant& v : setting.variants) {
    DotRow row{v.label,
               value_text(v, metric),
               v.style,
               shown(v.interval.mean, metric),
               shown(v.interval.half_width, metric),
               {}};
    if (v.quality.size() > 1)
      for (const auto& [seed, value] : v.quality) row.singles.push_back(shown(value, metric));
    rows.push_back(std::move(row));
  }
  const bool many =
      std::ranges::any_of(setting.variants, [](const Variant& v) { return v.quality.size() > 1; });
  const ChartText text{"Quality", in_words(setting, [&](const Variant& v) { return value_text(v, metric); }),
                       fmt::format("{}, {}", axis_name(metric), better(metric)), ""};
  return figure(fmt::format("Quality: {}.", metric.name),
                many ? "Mean, 95 % confidence interval, and a tick for each seed." : "One run each.",
                dot_chart(text, rows));
}

std::string cost_figure(const Setting& setting, const Metric& metric, const std::string& title,
                        const std::string& note, const std::string& x, double (*cost)(const Variant&),
                        bool front) {
  std::vector<ScatterPoint> points;
  for (const Variant& v : setting.variants)
    points.push_back({v.label, v.style, cost(v), shown(v.interval.mean, metric),
                      shown(v.interval.half_width, metric), front && v.on_front});
  const ChartText text{
      title,
      in_words(setting,
               [&](const Variant& v) { return fmt::format("{} at {:.4g}", value_text(v, metric), cost(v)); }),
      x, axis_name(metric)};
  return figure(title, note, scatter_chart(text, points));
}

// The mean over runs at each step that all of them have, and the extremes where there are several.
Series mean_curve(const Variant& v, const std::vector<const Curve*>& curves) {
  std::map<double, std::vector<double>> at;
  for (const Curve* curve : curves)
    for (const auto& [step, value] : *curve) at[step].push_back(value);
  Series series{v.label, v.style, {}, {}, {}};
  for (const auto& [step, values] : at) {
    if (values.size() != curves.size()) continue;
    series.points.emplace_back(step, mean_of(values));
    if (curves.size() < 2) continue;
    series.low.emplace_back(step, *std::ranges::min_element(values));
    series.high.emplace_back(step, *std::ranges::max_element(values));
  }
  return series;
}

// Means of consecutive steps, so that at most kMaxPoints are left.
Curve thinned(const Curve& curve) {
  const std::size_t each = (curve.size() + kMaxPoints - 1) / kMaxPoints;
  if (each <= 1) return curve;
  Curve out;
  for (std::size_t begin = 0; begin < curve.size(); begin += each) {
    const std::size_t end = std::min(begin + each, curve.size());
    double sum = 0;
    for (std::size_t i = begin; i < end; ++i) sum += curve[i].second;
    out.emplace_back(curve[end - 1].first, sum / static_cast<double>(end - begin));
  }
  return out;
}

// The first tenth of a run falls steeply; what comes after decides the axis.
double axis_top(const std::vector<Series>& series) {
  double top = -INFINITY;
  for (const Series& s : series)
    for (std::size_t i = s.points.size() / 10; i < s.points.size(); ++i)
      top = std::max(top, s.points[i].second);
  return top;
}

std::string final_values(const std::vector<Series>& series) {
  std::string words = "At the end: ";
  for (const Series& s : series)
    if (!s.points.empty())
      words += fmt::format("{}{} {:.4g}", words.ends_with(": ") ? "" : "; ", s.label, s.points.back().second);
  return words;
}

std::string curves_figure(const Setting& setting, bool validation) {
  std::vector<Series> series;
  std::size_t longest = 0;
  for (const Variant& v : setting.variants) {
    std::vector<Curve> curves;
    for (const RunData* run : v.runs)
      curves.push_back(validation ? run->validation : thinned(run->train_loss));
    std::vector<const Curve*> pointers;
    for (const Curve& curve : curves) pointers.push_back(&curve);
    series.push_back(mean_curve(v, pointers));
    longest = std::max(longest, series.back().points.size());
  }
  if (longest < 3) return "";
  const std::string title = validation ? "Validation loss over training." : "Training loss.";
  const ChartText text{title, final_values(series), "step", "loss, nats per token"};
  const bool many = std::ranges::any_of(series, [](const Series& s) { return !s.low.empty(); });
  return figure(title, many ? "Mean over seeds; the band spans them." : "",
                line_chart(text, series, {axis_top(series), false, false}));
}

// val_loss_by_position: [{"first": 4, "last": 7, "loss": 2.1}, ..], ranges of the tokens before a prediction.
Curve loss_by_position(const RunData& run) {
  Curve curve;
  for (const Json& bucket : run.summary.value("val_loss_by_position", Json::array())) {
    const double first = bucket.at("first"), last = bucket.at("last");
    curve.emplace_back(std::max(1.0, (first + last) / 2), bucket.at("loss"));
  }
  return curve;
}

std::string position_figure(const Setting& setting) {
  std::vector<Series> series;
  for (const Variant& v : setting.variants) {
    std::vector<Curve> curves;
    for (const RunData* run : v.runs)
      if (run->summary.contains("val_loss_by_position")) curves.push_back(loss_by_position(*run));
    std::vector<const Curve*> pointers;
    for (const Curve& curve : curves) pointers.push_back(&curve);
    if (!pointers.empty()) series.push_back(mean_curve(v, pointers));
  }
  // Where all targets stand at much the same place there is nothing to see.
  if (std::ranges::all_of(series, [](const Series& s) { return s.points.size() < 2; })) return "";
  const std::string title = "Loss by position.";
  const ChartText text{title, final_values(series), "tokens before the predicted one",
                       "loss, nats per token"};
  return figure(title, "What the model makes of a longer context.",
                line_chart(text, series, {std::nullopt, true, false}));
}

std::string speed_figure(const Setting& setting) {
  std::vector<BarRow> rows;
  for (const Variant& v : setting.variants)
    rows.push_back(
        {v.label, rate_text(v.cost) + " tokens/s", v.style, v.cost.tokens_per_second, std::nullopt});
  const ChartText text{
      "Speed", in_words(setting, [](const Variant& v) { return rate_text(v.cost) + " tokens/s"; }), "", ""};
  return figure("Training speed.",
                std::ranges::all_of(setting.variants, [](const Variant& v) { return v.cost.timed_alone; })
                    ? "Median of all steps, with the range over runs; longer is faster."
                    : "Not to be compared: runs shared the machine and were not all timed alone.",
                bar_chart(text, rows));
}

std::string memory_figure(const Setting& setting) {
  std::vector<BarRow> rows;
  for (const Variant& v : setting.variants)
    rows.push_back({v.label, memory_text(v.cost.peak_bytes), v.style, v.cost.peak_bytes, std::nullopt});
  const ChartText text{
      "Memory", in_words(setting, [](const Variant& v) { return memory_text(v.cost.peak_bytes); }), "", ""};
  return figure("Peak memory.", "Of the whole run; shorter is less.", bar_chart(text, rows));
}

std::string tiles_text(const Cost& cost) {
  return fmt::format("{} computed, {} needed", percent_text(cost.tiles_of_full()),
                     percent_text(cost.exact_pairs / std::max(1.0, cost.dense_pairs)));
}

std::string tiles_figure(const Setting& setting) {
  std::vector<BarRow> rows;
  for (const Variant& v : setting.variants)
    rows.push_back({v.label, tiles_text(v.cost), v.style, v.cost.computed_pairs, v.cost.exact_pairs});
  const ChartText text{"Tiles", in_words(setting, [](const Variant& v) { return tiles_text(v.cost); }), "",
                       ""};
  return figure(
      "Work of attention.",
      "Pairs in computed tiles (pale) and pairs that the pattern needs (solid); the shares are of full "
      "attention's tiles and pairs.",
      bar_chart(text, rows));
}

double tiles_percent(const Variant& v) {
  return 100 * v.cost.tiles_of_full();
}
double speed(const Variant& v) {
  return v.cost.tokens_per_second;
}

// Layers with the same layout together, as picture_panels wants them.
Explanation picture_groups(const std::vector<LayoutPtr>& layouts) {
  Explanation out;
  for (std::size_t l = 0; l < layouts.size(); ++l) {
    auto group = std::ranges::find(out.groups, layouts[l], &LayerGroup::layout);
    if (group == out.groups.end()) {
      out.groups.push_back({{}, layouts[l], {}, {}});
      group = out.groups.end() - 1;
    }
    group->layers.push_back(static_cast<int>(l));
  }
  return out;
}

std::string panel_figures(const Variant& variant, std::span<const Panel> panels) {
  std::string text = "<div class=\"panels\">\n";
  for (const Panel& panel : panels)
    text +=
        fmt::format("<figure class=\"panel\">{}<figcaption>{}</figcaption></figure>\n",
                    pattern_picture(*panel.layout, panel.head,
                                    fmt::format("{}: what {} sees, queries downward and keys to the right",
                                                variant.label, panel.title)),
                    escape_html(panel.title));
  return text + "</div>\n";
}

}  // namespace

std::string setting_figures(const Setting& setting, const Metric& metric) {
  std::string text = "<div class=\"figures\">\n" + quality_figure(setting, metric);
  if (setting.variants.size() > 1) {
    text += cost_figure(setting, metric, "Quality against work.",
                        "Ringed: nothing else is better in both (the Pareto front).",
                        "% of full attention's tiles", tiles_percent, true);
    text += cost_figure(setting, metric, "Quality against speed.", "Further right is faster.",
                        "tokens per second", speed, false);
  }
  text += curves_figure(setting, true) + curves_figure(setting, false) + position_figure(setting);
  text += tiles_figure(setting) + speed_figure(setting) + memory_figure(setting);
  return text + "</div>\n";
}

std::string variant_pictures(const Variant& variant) {
  const RunData& run = *variant.runs.front();
  try {
    const HeadLayouts heads = head_layouts(run.folder, run.config);
    const Explanation groups = picture_groups(heads.layers);
    const auto panels = picture_panels(groups);
    const auto first = std::span(panels).first(std::min(panels.size(), kOpenPictures));
    const auto rest = std::span(panels).subspan(first.size());
    std::string text =
        heads.note.empty() ? "" : fmt::format("<p class=\"note\">{}</p>\n", escape_html(heads.note));
    text += panel_figures(variant, first);
    if (!rest.empty())
      text += fmt::format("<details>\n<summary>{} more</summary>\n{}</details>\n", rest.size(),
                          panel_figures(variant, rest.first(std::min(rest.size(), kFoldedPictures))));
    if (rest.size() > kFoldedPictures)
      text +=
          fmt::format("<p>{} more are left out; <code>filigree explain --svg</code> draws them all.</p>\n",
                      rest.size() - kFoldedPictures);
    return text;
  } catch (const Error& e) {
    return fmt::format("<p>No picture: {}</p>\n", escape_html(e.what()));
  }
}

}  // namespace filigree
