#include "train/report/html.h"

#include <algorithm>
#include <map>
#include <set>

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
    if (const std::string beside = differences_beside(setting, analysis); !beside.empty())
      text += fmt::format("<p class=\"beside\">{}</p>\n", escape_html(beside));
    const auto sentences = findings(setting, analysis);
    for (std::size_t i = 0; i < sentences.size(); ++i)
      text += fmt::format("<p{}>{}</p>\n", i == 0 ? " class=\"lead\"" : "", escape_html(sentences[i]));
  }
  return text + "</section>\n";
}

std::string row_head(const Variant& v, const std::string& name) {
  return fmt::format("<th scope=\"row\"><span class=\"swatch s{}\"></span>{}</th>", v.style % 8,
                     escape_html(name));
}

std::string results_table(const Setting& setting, const Analysis& analysis) {
  std::string rows;
  for (const Variant& v : setting.variants) {
    const auto cells = result_row(setting, v, analysis.metric);
    rows += fmt::format("<tr{}>{}", &v == setting.winner() ? " class=\"best\"" : "", row_head(v, cells[0]));
    for (std::size_t i = 1; i < cells.size(); ++i) rows += fmt::format("<td>{}</td>", escape_html(cells[i]));
    rows += "</tr>\n";
  }
  return html_table("Results", setting.ranked() ? "The best mean first." : "In no order.",
                    result_columns(analysis), rows);
}

std::string setting_section(const Setting& setting, const Analysis& analysis) {
  return fmt::format("<section>\n<h2>{}</h2>\n{}{}</section>\n",
                     setting.label.empty() ? "Results" : escape_html(setting.label),
                     results_table(setting, analysis), setting_figures(setting, analysis.metric));
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
  std::vector<std::string> titles = {analysis.noun};
  std::string rows;
  for (const Setting& setting : analysis.settings) titles.push_back(setting.label);
  for (const Variant* row : first) {
    rows += "<tr>" + row_head(*row, row->label);
    for (const Setting& setting : analysis.settings) {
      const auto v = std::ranges::find(setting.variants, row->label, &Variant::label);
      const std::string value = v == setting.variants.end() ? "–" : analysis.metric.text(v->interval.mean);
      const bool best = v != setting.variants.end() && &*v == setting.winner();
      rows += fmt::format(fmt::runtime(best ? "<td><strong>{}</strong></td>" : "<td>{}</td>"), value);
    }
    rows += "</tr>\n";
  }
  const std::string caption = fmt::format("Mean {}; where one is best, it is bold.", analysis.metric.name);
  return "<section>\n<h2>Across settings</h2>\n" + html_table("Quality by setting", caption, titles, rows) +
         "</section>\n";
}

std::string pictures(const Analysis& analysis) {
  std::string text =
      "<section>\n<h2>What the heads see</h2>\n<p>Queries run downward, keys to the right; the stronger the "
      "colour, the "
      "larger the share of allowed pairs.</p>\n<div class=\"pictures\">\n";
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants)
      text += fmt::format(
          "<article class=\"card\">\n<h3><span class=\"swatch s{}\"></span>{}</h3>\n{}</article>\n",
          v.style % 8, escape_html(full_name(setting, v)), variant_pictures(v));
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
          "<details>\n<summary>{}</summary>\n<p>Runs: {}</p>\n<pre><code>{}</code></pre>\n</details>\n",
          escape_html(full_name(setting, v)), folders, escape_html(v.runs.front()->config_yaml));
    }
  return text + "</section>\n";
}

std::string left_out(const Analysis& analysis) {
  if (analysis.left_out.empty()) return "";
  std::string text = "<section>\n<h2>Left out</h2>\n<ul>\n";
  for (const auto& [run, why] : analysis.left_out)
    text +=
        fmt::format("<li><code>{}</code>: {}</li>\n", escape_html(run->folder.string()), escape_html(why));
  return text + "</ul>\n</section>\n";
}

// What made the runs, when and where; each run's own is in results.json.
std::string how_made(const Analysis& analysis) {
  std::map<std::string, std::vector<std::string>> values;
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants)
      for (const RunData* run : v.runs)
        for (const auto& [key, value] : run->made)
          if (auto& all = values[key]; std::ranges::count(all, value) == 0) all.push_back(value);
  if (values.empty()) return "";
  const auto all = [&](const char* key) { return fmt::format("{}", fmt::join(values[key], " / ")); };
  return fmt::format(
      "<section>\n<h2>How the runs were made</h2>\n<p>Trained on {} ({}, threads: {}) from {} to {} by "
      "filigree {}, "
      "commit {}, build {}.</p>\n</section>\n",
      escape_html(all("host")), escape_html(all("device")), all("threads"), std::ranges::min(values["start"]),
      std::ranges::max(values["end"]), escape_html(all("version")), escape_html(all("commit")),
      escape_html(all("build")));
}

std::string method() {
  return "<section>\n<h2>How to read this</h2>\n<dl>\n"
         "<dt>Quality</dt><dd>Of the last evaluation of a run on its validation data. The interval is "
         "Student's t at 95 % over seeds; it says how well the mean is known, not how far single runs spread."
         "</dd>\n"
         "<dt>Test</dt><dd>Each variant against the first, two-sided: a t test on differences of runs with "
         "the "
         "same seed where at least two seeds are shared, Welch's t test otherwise. p values are adjusted for "
         "their number after Holm; below 0.05 counts as significant. One is called best if it is "
         "significantly "
         "ahead of all others. The first is chosen from the same runs, which makes it look a little better "
         "than "
         "it is.</dd>\n"
         "<dt>Comparable</dt><dd>Runs with the same validation data, task, model, training data, tokenizer "
         "and "
         "number of steps, but for what a sweep varies or holds equal. Data is known by its fingerprint; "
         "runs of "
         "versions that kept none are compared by the paths in their configs.</dd>\n"
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

std::string html_table(const std::string& name, const std::string& caption,
                       const std::vector<std::string>& columns, const std::string& rows, const char* css) {
  std::string heads;
  for (const std::string& column : columns)
    heads += fmt::format("<th scope=\"col\">{}</th>", escape_html(column));
  return fmt::format(
      "<div class=\"scroll{}\" tabindex=\"0\" role=\"region\" "
      "aria-label=\"{}\">\n<table>\n<caption>{}</caption>\n"
      "<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody>\n</table>\n</div>\n",
      css, escape_html(name), escape_html(caption), heads, rows);
}

std::string report_html(const Collection& collection, const Analysis& analysis) {
  std::string text = head(collection) + "<body>\n<main>\n";
  text += fmt::format("<header>\n<h1>{}</h1>\n<p class=\"sub\">{}</p>\n</header>\n",
                      escape_html(collection.title), escape_html(subtitle(collection, analysis)));
  text += in_short(analysis) + left_out(analysis) + across_settings(analysis);
  for (const Setting& setting : analysis.settings) text += setting_section(setting, analysis);
  text += accuracy_section(analysis) + learning_section(analysis) + pictures(analysis) + how_made(analysis) +
          method() + configs(analysis);
  return text +
         fmt::format(
             "<footer><p>Page made by filigree {}, commit {}, build {}.</p></footer>\n</main>\n</body>\n"
             "</html>\n",
             version(), commit(), escape_html(build()));
}

}  // namespace filigree
