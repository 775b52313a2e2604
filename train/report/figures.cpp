#include "train/report/figures.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "attention/explain/picture.h"
#include "core/build_info.h"
#include "data/progress.h"
#include "train/report/charts.h"
#include "train/report/findings.h"
#include "train/report/head_layouts.h"
#include "train/report/tables.h"

namespace filigree {

extern const char* const kReportPage;  // page.html; CMakeLists.txt makes a string of it

namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kMostPictures = 64;  // of a variant

std::string counted(std::int64_t n, const char* noun) {
  return fmt::format("{} {}{}", n, noun, n == 1 ? "" : "s");
}

// "local", or "local (seq_len-512)" where there are several settings.
std::string full_name(const Setting& setting, const Variant& variant) {
  return setting.label.empty() ? variant.label : fmt::format("{} ({})", variant.label, setting.label);
}

std::string subtitle(const Collection& collection, const Analysis& analysis) {
  std::set<std::string> labels;
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants) labels.insert(v.label);
  std::string text =
      fmt::format("{} of {}", counted(std::ssize(collection.runs) - std::ssize(analysis.left_out), "run"),
                  counted(std::ssize(labels), "variant"));
  if (analysis.settings.size() > 1)
    text += fmt::format(" in {}", counted(std::ssize(analysis.settings), "setting"));
  return text + (collection.fairness.empty() ? "" : fmt::format("; held equal: {}", collection.fairness));
}

Json results_table(const Setting& setting, const Analysis& analysis) {
  Json rows = Json::array();
  for (const Variant& v : setting.variants)
    rows.push_back({{"style", v.style},
                    {"best", &v == setting.winner()},
                    {"cells", result_row(setting, v, analysis.metric)}});
  return {{"caption", setting.ranked() ? "The best mean first." : "In no order."},
          {"columns", result_columns(analysis)},
          {"rows", rows}};
}

// Each variant's quality under every setting, where there are several; `best` lists the columns where it is
// best.
Json across_settings(const Analysis& analysis) {
  if (analysis.settings.size() < 2) return nullptr;
  std::vector<const Variant*> first;  // of every label
  std::vector<std::string> columns = {analysis.noun};
  for (const Setting& setting : analysis.settings) {
    columns.push_back(setting.label);
    for (const Variant& v : setting.variants)
      if (std::ranges::count(first, v.label, &Variant::label) == 0) first.push_back(&v);
  }
  std::ranges::sort(first, {}, &Variant::style);
  Json rows = Json::array();
  for (const Variant* row : first) {
    Json cells = {row->label}, best = Json::array();
    for (const Setting& setting : analysis.settings) {
      const auto v = std::ranges::find(setting.variants, row->label, &Variant::label);
      if (v != setting.variants.end() && &*v == setting.winner()) best.push_back(cells.size());
      cells.push_back(v == setting.variants.end() ? Json("–") : Json(analysis.metric.text(v->interval.mean)));
    }
    rows.push_back({{"style", row->style}, {"best", best}, {"cells", cells}});
  }
  return {{"caption", fmt::format("Mean {}; where one is best, it is bold.", analysis.metric.name)},
          {"columns", columns},
          {"rows", rows}};
}

// A table of accuracies told apart (val_accuracy_of and val_by_length in a summary: a needle's depth, a rule,
// the length of the text), each the mean over the runs that have it. Rows and columns are in the order of
// first sight.
class AccuracyMap {
 public:
  AccuracyMap(std::string caption, std::string corner)
      : caption_(std::move(caption)), columns_{std::move(corner)} {}

  void add(const std::string& row, const std::string& column, const Json& value) {
    if (!value.is_number()) return;
    for (auto [names, name] : {std::pair(&rows_, &row), {&columns_, &column}})
      if (std::ranges::count(*names, *name) == 0) names->push_back(*name);
    Mean& mean = means_[{row, column}];
    mean.sum += value.get<double>();
    ++mean.count;
  }
  void move_to_end(const std::string& row) {
    if (std::erase(rows_, row) > 0) rows_.push_back(row);
  }
  // Nothing if nothing was added.
  void add_to(Json& tables) const {
    Json rows = Json::array();
    for (const std::string& row : rows_) {
      Json cells = {row};
      for (std::size_t c = 1; c < columns_.size(); ++c) {
        const auto mean = means_.find({row, columns_[c]});
        cells.push_back(mean == means_.end() ? Json(nullptr) : Json(mean->second.sum / mean->second.count));
      }
      rows.push_back({{"cells", cells}});
    }
    if (!rows.empty())
      tables.push_back({{"caption", caption_ + ", in %."}, {"columns", columns_}, {"rows", rows}});
  }

 private:
  struct Mean {
    double sum = 0, count = 0;
  };
  std::string caption_;
  std::vector<std::string> rows_, columns_;
  std::map<std::pair<std::string, std::string>, Mean> means_;  // by row and column
};

// val_by_length of a variant's runs: groups downward, lengths to the right.
void add_length_map(const Setting& setting, const Variant& v, Json& tables) {
  AccuracyMap map(fmt::format("Accuracy of {}, trained on {} tokens", full_name(setting, v),
                              v.runs.front()->config.data.seq_len),
                  "tokens");
  std::map<std::int64_t, std::vector<Json>> by_length;
  for (const RunData* run : v.runs)
    for (const Json& there : run->summary.value("val_by_length", Json::array()))
      by_length[there.at("length").get<std::int64_t>()].push_back(there);
  for (const auto& [length, evaluations] : by_length)
    for (const Json& there : evaluations) {
      const Json groups = there.value("accuracy_of", Json::object());
      for (const auto& [group, accuracy] : groups.items()) map.add(group, std::to_string(length), accuracy);
      map.add("all", std::to_string(length), there.value("accuracy", Json()));
    }
  map.move_to_end("all");  // a group may be missing in the first length, and what sums up comes last
  map.add_to(tables);
}

// True if every setting has a length of its own.
bool settings_are_lengths(const Analysis& analysis) {
  std::map<std::int64_t, const Setting*> lengths;
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants)
      if (lengths.emplace(v.runs.front()->config.data.seq_len, &setting).first->second != &setting)
        return false;
  return lengths.size() > 1 && lengths.size() == analysis.settings.size();
}

// For each variant that was evaluated at several lengths, a map of groups by length. Then one of variants by
// group; where settings differ in data.seq_len, again one of groups by length for each variant.
Json accuracy_maps(const Analysis& analysis) {
  Json tables = Json::array();
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants) add_length_map(setting, v, tables);
  const bool by_length = settings_are_lengths(analysis);
  std::vector<const Setting*> settings;
  for (const Setting& setting : analysis.settings) settings.push_back(&setting);
  const auto length_of = [](const Setting* s) {
    return s->variants.front().runs.front()->config.data.seq_len;
  };
  if (by_length) std::ranges::sort(settings, {}, length_of);
  std::vector<std::pair<std::string, AccuracyMap>> maps;  // by variant, or by setting
  for (const Setting* setting : settings)
    for (const Variant& v : setting->variants) {
      const std::string& name = by_length ? v.label : setting->label;
      auto map = std::ranges::find(maps, name, &std::pair<std::string, AccuracyMap>::first);
      if (map == maps.end())
        map = maps.emplace(map, name,
                           by_length      ? AccuracyMap("Accuracy of " + name, "tokens")
                           : name.empty() ? AccuracyMap("Accuracy", "variant")
                                          : AccuracyMap("Accuracy, " + name, "variant"));
      for (const RunData* run : v.runs) {
        const Json groups = run->summary.value("val_accuracy_of", Json::object());
        for (const auto& [group, accuracy] : groups.items()) {
          if (by_length)
            map->second.add(group, std::to_string(length_of(setting)), accuracy);
          else
            map->second.add(v.label, group, accuracy);
        }
      }
    }
  for (const auto& [name, map] : maps) map.add_to(tables);
  return tables;
}

// Layers with the same layout together, as picture_panels wants them.
Explanation picture_groups(const std::vector<LayoutPtr>& layouts) {
  Explanation out;
  for (std::int64_t l = 0; l < std::ssize(layouts); ++l) {
    auto group = std::ranges::find(out.groups, layouts[l], &LayerGroup::layout);
    if (group == out.groups.end()) {
      out.groups.push_back({{}, layouts[l], {}, {}});
      group = out.groups.end() - 1;
    }
    group->layers.push_back(static_cast<int>(l));
  }
  return out;
}

// The pictures of a variant's heads (head_layouts.h), from its first run; or why there are none.
Json heads_of(const Setting& setting, const Variant& v) {
  Json out = {{"variant", full_name(setting, v)},
              {"style", v.style},
              {"note", ""},
              {"panels", Json::array()},
              {"left_out", 0}};
  try {
    const HeadLayouts heads = head_layouts(v.runs.front()->folder, v.runs.front()->config);
    const Explanation groups = picture_groups(heads.layers);
    out["note"] = heads.note;
    const auto panels = picture_panels(groups);
    for (const Panel& panel : panels) {
      if (std::ssize(out["panels"]) == kMostPictures) break;
      out["panels"].push_back(
          {{"title", panel.title},
           {"words",
            fmt::format("{}: what {} sees, queries downward and keys to the right", v.label, panel.title)},
           {"rows", pattern_picture(*panel.layout, panel.head)}});
    }
    out["left_out"] = std::ssize(panels) - std::ssize(out["panels"]);
  } catch (const Error& e) {
    out["note"] = fmt::format("No picture: {}", e.what());
  }
  return out;
}

// The machines and programs that made the runs, and when; each run's own is in results.json.
std::string how_made(const Analysis& analysis) {
  std::map<std::string, std::vector<std::string>> values;
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants)
      for (const RunData* run : v.runs)
        for (const auto& [key, value] : run->made)
          if (auto& all = values[key]; std::ranges::count(all, value) == 0) all.push_back(value);
  if (values.empty()) return "";
  const auto all = [&](const char* key) { return fmt::format("{}", fmt::join(values[key], " / ")); };
  return fmt::format("Trained on {} ({}, threads: {}) from {} to {} by filigree {}, commit {}, build {}.",
                     all("host"), all("device"), all("threads"), std::ranges::min(values["start"]),
                     std::ranges::max(values["end"]), all("version"), all("commit"), all("build"));
}

}  // namespace

std::vector<std::string> pattern_picture(const TileLayout& layout, int head) {
  constexpr int kPixels = 96;  // a side; more would make the page large
  const DensityGrid grid = density_grid(layout, head, kPixels);
  // The square root spreads the low densities; any that is not 0 is told apart from none.
  const auto letter = [&](int y, int x) {
    const float share = grid.at(y, x);
    if (share == kBeyondCausality) return '.';
    return static_cast<char>('a' + (share <= 0 ? 0 : std::max(1.f, std::ceil(std::sqrt(share) * 6))));
  };
  std::vector<std::string> rows(grid.size);
  for (int y = 0; y < grid.size; ++y)
    for (int x = 0, end; x < grid.size; x = end) {
      for (end = x + 1; end < grid.size && letter(y, end) == letter(y, x);) ++end;
      rows[y] += letter(y, x) + (end - x > 1 ? std::to_string(end - x) : "");
    }
  return rows;
}

Json report_figures(const Collection& collection, const Analysis& analysis) {
  Json out = {{"title", collection.title}, {"subtitle", subtitle(collection, analysis)}};
  for (const char* list : {"in_short", "left_out"}) out[list] = Json::array();
  out["across"] = across_settings(analysis);
  for (const char* list : {"settings", "accuracy", "learning", "heads", "configs"}) out[list] = Json::array();
  for (const auto& [run, why] : analysis.left_out)
    out["left_out"].push_back({{"run", run->folder.string()}, {"why", why}});
  for (const Setting& setting : analysis.settings) {
    out["in_short"].push_back({{"setting", setting.label},
                               {"beside", differences_beside(setting, analysis)},
                               {"sentences", findings(setting, analysis)}});
    out["settings"].push_back({{"setting", setting.label},
                               {"results", results_table(setting, analysis)},
                               {"charts", setting_charts(setting, analysis.metric)}});
    for (const Variant& v : setting.variants) {
      if (const Json charts = learning_charts(v); !charts.empty())
        out["learning"].push_back({{"variant", full_name(setting, v)}, {"charts", charts}});
      out["heads"].push_back(heads_of(setting, v));
      Json runs = Json::array();
      for (const RunData* run : v.runs) runs.push_back(run->folder.string());
      out["configs"].push_back(
          {{"variant", full_name(setting, v)}, {"runs", runs}, {"yaml", v.runs.front()->config_yaml}});
    }
  }
  out["accuracy"] = accuracy_maps(analysis);
  out["made"] = how_made(analysis);
  out["page"] = fmt::format("Page made by filigree {}, commit {}, build {}.", version(), commit(), build());
  return out;
}

std::string report_page(const Json& figures) {
  // A script ends at the first "</script": no figure holds a "<".
  std::string data;
  for (const char c : figures.dump(-1, ' ', false, Json::error_handler_t::replace))
    data += c == '<' ? std::string("\\u003c") : std::string(1, c);
  std::string page = kReportPage;
  const std::string mark = "@FIGURES@";
  return page.replace(page.find(mark), mark.size(), data);
}

}  // namespace filigree
