#include "train/report/html_charts.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <span>

#include "attention/explain/picture.h"
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
               with_interval(v.interval, metric),
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
  const ChartText text{"Quality",
                       in_words(setting, [&](const Variant& v) { return with_interval(v.interval, metric); }),
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
  const ChartText text{title,
                       in_words(setting,
                                [&](const Variant& v) {
                                  return fmt::format("{} at {:.4g}", with_interval(v.interval, metric),
                                                     cost(v));
                                }),
                       x, axis_name(metric)};
  return figure(title, note, scatter_chart(text, points));
}

// The mean over runs at each step that all of them have, and the extremes where there are several.
Series mean_curve(const std::string& label, std::size_t style, const std::vector<Curve>& curves) {
  std::map<double, std::vector<double>> at;
  for (const Curve& curve : curves)
    for (const auto& [step, value] : curve) at[step].push_back(value);
  Series series{label, style, {}, {}, {}};
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

const char* band_note(const std::vector<Series>& series) {
  const bool many = std::ranges::any_of(series, [](const Series& s) { return !s.low.empty(); });
  return many ? "Mean over seeds; the band spans them." : "";
}

std::string curves_figure(const Setting& setting, bool validation) {
  std::vector<Series> series;
  std::size_t longest = 0;
  for (const Variant& v : setting.variants) {
    std::vector<Curve> curves;
    for (const RunData* run : v.runs)
      curves.push_back(validation ? run->validation : thinned(run->train_loss));
    series.push_back(mean_curve(v.label, v.style, curves));
    longest = std::max(longest, series.back().points.size());
  }
  if (longest < 3) return "";
  const std::string title = validation ? "Validation loss over training." : "Training loss.";
  const ChartText text{title, final_values(series), "step", "loss, nats per token"};
  return figure(title, band_note(series), line_chart(text, series, {axis_top(series), false, false}));
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
    if (!curves.empty()) series.push_back(mean_curve(v.label, v.style, curves));
  }
  // Where all targets stand at much the same place there is nothing to see.
  if (std::ranges::all_of(series, [](const Series& s) { return s.points.size() < 2; })) return "";
  const std::string title = "Loss by position.";
  const ChartText text{title, final_values(series), "tokens before the predicted one",
                       "loss, nats per token"};
  return figure(title, "What the model makes of a longer context.",
                line_chart(text, series, {std::nullopt, true, false}));
}

// A bar for each variant, `part` of it darker if given.
std::string bars(const Setting& setting, const std::string& title, const std::string& note,
                 std::string (*words)(const Cost&), double (*whole)(const Cost&),
                 double (*part)(const Cost&) = nullptr) {
  std::vector<BarRow> rows;
  for (const Variant& v : setting.variants)
    rows.push_back(
        {v.label, words(v.cost), v.style, whole(v.cost), part ? std::optional(part(v.cost)) : std::nullopt});
  const ChartText text{title, in_words(setting, [&](const Variant& v) { return words(v.cost); }), "", ""};
  return figure(title, note, bar_chart(text, rows));
}

std::string tiles_text(const Cost& cost) {
  return fmt::format("{} computed, {} needed", percent_text(cost.tiles_of_full()),
                     percent_text(cost.exact_pairs / std::max(1.0, cost.dense_pairs)));
}

// How the learned patterns of a variant came about: curves of RunData::learning that have a name each.
std::string learning_figure(const Variant& v, const std::string& title, const std::string& note,
                            const std::string& axis, const std::vector<const char*>& names) {
  std::vector<Series> series;
  for (const char* name : names) {
    std::vector<Curve> curves;
    for (const RunData* run : v.runs)
      if (const auto curve = run->learning.find(name); curve != run->learning.end())
        curves.push_back(thinned(curve->second));
    if (!curves.empty()) series.push_back(mean_curve(name, series.size(), curves));
  }
  if (std::ranges::all_of(series, [](const Series& s) { return s.points.size() < 2; })) return "";
  const ChartText text{title, final_values(series), "step", axis};
  return figure(title, note, line_chart(text, series));
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
  if (setting.ranked()) {
    text += cost_figure(setting, metric, "Quality against work.",
                        "Ringed: nothing else is better in both (the Pareto front).",
                        "% of full attention's tiles", tiles_percent, true);
    text += cost_figure(setting, metric, "Quality against speed.", "Further right is faster.",
                        "tokens per second", speed, false);
  }
  text += curves_figure(setting, true) + curves_figure(setting, false) + position_figure(setting);
  text += bars(
      setting, "Work of attention.",
      "Pairs in computed tiles (pale) and pairs that the pattern needs (solid); the shares are of full "
      "attention's tiles and pairs.",
      tiles_text, [](const Cost& c) { return c.computed_pairs; },
      [](const Cost& c) { return c.exact_pairs; });
  const bool timed =
      std::ranges::all_of(setting.variants, [](const Variant& v) { return v.cost.timed_alone; });
  text += bars(
      setting, "Training speed.",
      timed ? "Median of all steps, with the range over runs; longer is faster."
            : "Not to be compared: runs shared the machine and were not all timed alone.",
      [](const Cost& c) { return rate_text(c) + " tokens/s"; },
      [](const Cost& c) { return c.tokens_per_second; });
  text += bars(
      setting, "Peak memory.", "Of the whole run; shorter is less.",
      [](const Cost& c) { return memory_text(c.peak_bytes); }, [](const Cost& c) { return c.peak_bytes; });
  return text + "</div>\n";
}

std::string learning_section(const Analysis& analysis) {
  std::string text;
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants) {
      const std::string figures =
          learning_figure(v, "Tiles.", "Of all layers: computed, expected by the gates, and aimed at.",
                          "tiles", {"computed", "expected", "aim"}) +
          learning_figure(v, "Gates.", "Shares: open from 0.9 on, closed below 0.1, and between.",
                          "share of gates", {"open", "between", "closed"}) +
          learning_figure(v, "Loss if hardened at that step.", "Beside the loss of the gates as they were.",
                          "validation loss, nats per token", {"as learned", "hardened"});
      if (!figures.empty())
        text += fmt::format("<h3>{}</h3>\n<div class=\"figures\">\n{}</div>\n",
                            escape_html(full_name(setting, v)), figures);
    }
  return text.empty() ? "" : "<section>\n<h2>How patterns were learned</h2>\n" + text + "</section>\n";
}

std::string full_name(const Setting& setting, const Variant& variant) {
  return setting.label.empty() ? variant.label : fmt::format("{} ({})", variant.label, setting.label);
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
