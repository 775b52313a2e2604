#include "train/report/html.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "attention/tile_layout.h"
#include "core/build_info.h"
#include "data/progress.h"
#include "train/report/html_charts.h"
#include "train/report/html_heat.h"
#include "train/report/html_style.h"
#include "train/report/tables.h"

namespace filigree {
namespace {

std::string counted(std::size_t n, const char* noun) {
  return fmt::format("{} {}{}", n, noun, n == 1 ? "" : "s");
}

std::string head(const Collection& collection) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<meta name=\"color-scheme\" content=\"light "
      "dark\"/>\n<title>{}</title>\n<style>\n{}</style>\n</head>\n",
      escape_html(collection.title), report_style());
}

std::string subtitle(const Collection& collection, const Analysis& analysis) {
  std::set<std::string> labels;
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants) labels.insert(v.label);
  const std::size_t good = collection.runs.size() - analysis.left_out.size();
  std::string text = fmt::format("{} of {}", counted(good, "run"), counted(labels.size(), "variant"));
  if (analysis.settings.size() > 1)
    text += fmt::format(" in {}", counted(analysis.settings.size(), "setting"));
  text += collection.fairness.empty() ? "" : fmt::format("; held equal: {}", collection.fairness);
  return text;
}

std::string in_short(const Analysis& analysis) {
  std::string text = "<section class=\"short\">\n<h2>In short</h2>\n";
  for (const Setting& setting : analysis.settings) {
    if (!setting.label.empty()) text += fmt::format("<h3>{}</h3>\n", escape_html(setting.label));
    const auto sentences = findings(setting, analysis.metric);
    for (std::size_t i = 0; i < sentences.size(); ++i)
      text += fmt::format("<p{}>{}</p>\n", i == 0 ? " class=\"lead\"" : "", escape_html(sentences[i]));
  }
  return text + "</section>\n";
}

std::string table_row(const Variant& v, const Variant& best, const Metric& metric) {
  const bool is_best = &v == &best;
  const std::string interval =
      v.interval.n > 1 ? fmt::format(" ± {}", metric.difference(v.interval.half_width)) : "";
  const std::string difference =
      is_best ? "best" : metric.difference(std::abs(v.interval.mean - best.interval.mean));
  return fmt::format(
      "<tr{}><th scope=\"row\"><span class=\"swatch s{}\"></span>{}</th><td>{}{}</td><td>{}</td><td>{}</td>"
      "<td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1f}</td><td>{}</td></tr>\n",
      is_best ? " class=\"best\"" : "", v.style % 8, escape_html(v.label), metric.text(v.interval.mean),
      interval, difference, escape_html(test_text(v)), rate_text(v.cost), memory_text(v.cost.peak_bytes),
      human_duration(v.cost.train_seconds), percent_text(v.cost.tiles_of_full()),
      100 * v.cost.exact_pairs / std::max(1.0, v.cost.computed_pairs), v.interval.n);
}

std::string table(const Setting& setting, const Metric& metric) {
  std::string text = fmt::format(
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table of results\">\n<table>\n"
      "<caption>The best first.</caption>\n<thead><tr>"
      "<th scope=\"col\">variant</th><th scope=\"col\">{}</th><th scope=\"col\">behind the best</th>"
      "<th scope=\"col\">significant</th><th scope=\"col\">tokens/s</th><th scope=\"col\">peak memory</th>"
      "<th scope=\"col\">training time</th><th scope=\"col\">of full attention's tiles</th>"
      "<th scope=\"col\">useful, % of computed pairs</th><th "
      "scope=\"col\">seeds</th></tr></thead>\n<tbody>\n",
      escape_html(metric.name));
  for (const Variant& v : setting.variants) text += table_row(v, setting.variants.front(), metric);
  return text + "</tbody>\n</table>\n</div>\n";
}

std::string setting_section(const Setting& setting, const Metric& metric) {
  return fmt::format("<section>\n<h2>{}</h2>\n{}{}</section>\n",
                     setting.label.empty() ? "Results" : escape_html(setting.label), table(setting, metric),
                     setting_figures(setting, metric));
}

// Each variant's quality under every setting, where there are several.
std::string across_settings(const Analysis& analysis) {
  if (analysis.settings.size() < 2) return "";
  std::vector<const Variant*> first;  // of every label
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants)
      if (std::ranges::none_of(first, [&](const Variant* f) { return f->label == v.label; }))
        first.push_back(&v);
  std::ranges::sort(first, {}, &Variant::style);
  std::string titles, rows;
  for (const Setting& setting : analysis.settings)
    titles += fmt::format("<th scope=\"col\">{}</th>", escape_html(setting.label));
  for (const Variant* row : first) {
    rows += fmt::format("<tr><th scope=\"row\"><span class=\"swatch s{}\"></span>{}</th>", row->style % 8,
                        escape_html(row->label));
    for (const Setting& setting : analysis.settings) {
      const auto v = std::ranges::find(setting.variants, row->label, &Variant::label);
      const std::string value = v == setting.variants.end() ? "–" : analysis.metric.text(v->interval.mean);
      const bool best = v == setting.variants.begin();
      rows += fmt::format(fmt::runtime(best ? "<td><strong>{}</strong></td>" : "<td>{}</td>"), value);
    }
    rows += "</tr>\n";
  }
  return fmt::format(
      "<section>\n<h2>Across settings</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
      "aria-label=\"Quality by setting\">\n<table>\n<caption>Mean {}; the best of each column in "
      "bold.</caption>\n<thead><tr><th scope=\"col\">variant</th>{}</tr></thead>\n<tbody>\n{}</tbody>\n"
      "</table>\n</div>\n</section>\n",
      escape_html(analysis.metric.name), titles, rows);
}

std::string pictures(const Analysis& analysis) {
  std::string text =
      "<section>\n<h2>What the heads see</h2>\n<p>Queries run downward, keys to the right; the stronger the "
      "colour, the "
      "larger the share of allowed pairs.</p>\n<div class=\"pictures\">\n";
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants)
      text += fmt::format(
          "<article class=\"card\">\n<h3><span class=\"swatch s{}\"></span>{}{}</h3>\n{}</article>\n",
          v.style % 8, escape_html(v.label),
          setting.label.empty() ? "" : escape_html(" (" + setting.label + ")"), variant_pictures(v));
  return text + "</div>\n</section>\n";
}

std::string configs(const Analysis& analysis) {
  std::string text =
      "<section>\n<h2>Exact configs</h2>\n<p>As resolved, of the first run of each variant; its "
      "other runs differ in the seed and the folder.</p>\n";
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants) {
      std::string folders;
      for (const RunData* run : v.runs)
        folders +=
            fmt::format("{}<code>{}</code>", folders.empty() ? "" : ", ", escape_html(run->folder.string()));
      text += fmt::format(
          "<details>\n<summary>{}{}</summary>\n<p>Runs: {}</p>\n<pre><code>{}</code></pre>\n</details>\n",
          escape_html(v.label), setting.label.empty() ? "" : escape_html(" (" + setting.label + ")"), folders,
          escape_html(v.runs.front()->config_yaml));
    }
  return text + "</section>\n";
}

std::string left_out(const Analysis& analysis) {
  if (analysis.left_out.empty()) return "";
  std::string text = "<section>\n<h2>Left out</h2>\n<ul>\n";
  for (const RunData* run : analysis.left_out)
    text += fmt::format("<li><code>{}</code>: {}</li>\n", escape_html(run->folder.string()),
                        escape_html(run->problem));
  return text + "</ul>\n</section>\n";
}

std::string method() {
  return "<section>\n<h2>How to read this</h2>\n<dl>\n"
         "<dt>Quality</dt><dd>Of the last evaluation of a run on its validation data. The interval is "
         "Student's t at 95 % over seeds; it says how well the mean is known, not how far single runs spread."
         "</dd>\n"
         "<dt>Test</dt><dd>Each variant against the best, two-sided: a t test on differences of runs with "
         "the "
         "same seed where at least two seeds are shared, Welch's t test otherwise. p values are adjusted for "
         "their number after Holm; below 0.05 counts as significant. The best is chosen from the same runs, "
         "which makes it look a little better than it is.</dd>\n"
         "<dt>Tiles</dt><dd>Attention is computed in square tiles. A tile counts whole, even if the pattern "
         "needs one pair of it: computed against needed pairs is what the tile costs.</dd>\n"
         "<dt>Speed and memory</dt><dd>As measured while training, on the machine of the run; the median of "
         "all steps, and the peak of the device's memory.</dd>\n</dl>\n</section>\n";
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' ? std::string("\xEF\xBF\xBD")
                                                                              : std::string(1, c);
    }
  }
  return out;
}

std::string report_html(const Collection& collection, const Analysis& analysis) {
  std::string text = head(collection) + "<body>\n<main>\n";
  text += fmt::format("<header>\n<h1>{}</h1>\n<p class=\"sub\">{}</p>\n</header>\n",
                      escape_html(collection.title), escape_html(subtitle(collection, analysis)));
  text += in_short(analysis) + across_settings(analysis);
  for (const Setting& setting : analysis.settings) text += setting_section(setting, analysis.metric);
  text += accuracy_section(analysis) + pictures(analysis) + left_out(analysis) + method() + configs(analysis);
  return text +
         fmt::format("<footer><p>Made by filigree {}.</p></footer>\n</main>\n</body>\n</html>\n", version());
}

}  // namespace filigree
