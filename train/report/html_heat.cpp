#include "train/report/html_heat.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "train/report/html.h"

namespace filigree {
namespace {

struct HeatTable {
  std::string caption, corner;
  std::vector<std::string> rows, columns;
  std::map<std::pair<std::string, std::string>, double> values;  // by row and column; absent: not measured
};

std::string cell(const HeatTable& table, const std::string& row, const std::string& column) {
  const auto value = table.values.find({row, column});
  if (value == table.values.end()) return "<td>–</td>";
  const double v = std::clamp(value->second, 0.0, 1.0);
  return fmt::format("<td class=\"h{}\">{:.0f}</td>", std::lround(6 * v), 100 * v);
}

std::string table_html(const HeatTable& table) {
  std::vector<std::string> columns = {table.corner};
  columns.insert(columns.end(), table.columns.begin(), table.columns.end());
  std::string rows;
  for (const std::string& row : table.rows) {
    rows += fmt::format("<tr><th scope=\"row\">{}</th>", escape_html(row));
    for (const std::string& column : table.columns) rows += cell(table, row, column);
    rows += "</tr>\n";
  }
  return html_table(table.caption, table.caption + ", in %.", columns, rows, " heat");
}

using Json = nlohmann::ordered_json;

// By name, the mean over the runs that have it, in the order of first sight.
class Means {
 public:
  void add(const std::string& name, const Json& value) {
    if (!value.is_number()) return;
    auto at = std::ranges::find(means_, name, &Mean::name);
    if (at == means_.end()) at = means_.insert(at, Mean{name});
    at->sum += value.get<double>();
    ++at->count;
  }
  std::vector<std::pair<std::string, double>> values() const {
    std::vector<std::pair<std::string, double>> out;
    for (const Mean& mean : means_) out.emplace_back(mean.name, mean.sum / mean.count);
    return out;
  }

 private:
  struct Mean {
    std::string name;
    double sum = 0, count = 0;
  };
  std::vector<Mean> means_;
};

// (group, mean accuracy over runs), in the order of the first run's evaluation.
std::vector<std::pair<std::string, double>> group_means(const Variant& v) {
  Means means;
  for (const RunData* run : v.runs) {
    const Json groups = run->summary.value("val_accuracy_of", Json::object());
    for (const auto& [group, accuracy] : groups.items()) means.add(group, accuracy);
  }
  return means.values();
}

void add_name(std::vector<std::string>& names, const std::string& name) {
  if (std::ranges::count(names, name) == 0) names.push_back(name);
}

std::string by_variant(const Setting& setting) {
  HeatTable table{"Accuracy", "variant", {}, {}, {}};
  if (!setting.label.empty()) table.caption += ", " + setting.label;
  for (const Variant& v : setting.variants)
    for (const auto& [group, accuracy] : group_means(v)) {
      add_name(table.rows, v.label);
      add_name(table.columns, group);
      table.values[{v.label, group}] = accuracy;
    }
  return table.rows.empty() ? "" : table_html(table);
}

constexpr const char* kAllTargets = "all";

// val_by_length of a variant's runs: groups downward, lengths to the right.
HeatTable length_map(const Variant& v) {
  HeatTable table{"", "tokens", {}, {}, {}};
  std::map<std::int64_t, Means> by_length;
  for (const RunData* run : v.runs)
    for (const Json& there : run->summary.value("val_by_length", Json::array())) {
      Means& means = by_length[there.at("length").get<std::int64_t>()];
      const Json groups = there.value("accuracy_of", Json::object());
      for (const auto& [group, accuracy] : groups.items()) means.add(group, accuracy);
      means.add(kAllTargets, there.value("accuracy", Json()));
    }
  for (const auto& [length, means] : by_length)
    for (const auto& [group, accuracy] : means.values()) {
      const std::string column = std::to_string(length);
      add_name(table.rows, group);
      add_name(table.columns, column);
      table.values[{group, column}] = accuracy;
    }
  // A group may be missing in the first length; what sums up comes last.
  if (std::erase(table.rows, kAllTargets) > 0) table.rows.emplace_back(kAllTargets);
  return table;
}

std::string by_length_maps(const Analysis& analysis) {
  std::string text;
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants) {
      HeatTable table = length_map(v);
      if (table.rows.empty()) continue;
      table.caption = fmt::format("Accuracy of {}{}, trained on {} tokens", v.label,
                                  setting.label.empty() ? "" : fmt::format(" ({})", setting.label),
                                  v.runs.front()->config.data.seq_len);
      text += table_html(table);
    }
  return text.empty() ? "" : fmt::format("<div class=\"heats\">\n{}</div>\n", text);
}

// The length of each setting, if all have one and no two the same.
std::optional<std::map<std::int64_t, const Setting*>> by_length(const Analysis& analysis) {
  std::map<std::int64_t, const Setting*> out;
  for (const Setting& setting : analysis.settings)
    for (const Variant& v : setting.variants) {
      const auto [at, is_new] = out.emplace(v.runs.front()->config.data.seq_len, &setting);
      if (at->second != &setting) return std::nullopt;
    }
  if (out.size() < 2 || out.size() != analysis.settings.size()) return std::nullopt;
  return out;
}

std::string by_group_and_length(const std::map<std::int64_t, const Setting*>& lengths) {
  std::vector<std::string> labels;
  std::map<std::string, HeatTable> tables;
  for (const auto& [length, setting] : lengths)
    for (const Variant& v : setting->variants)
      for (const auto& [group, accuracy] : group_means(v)) {
        add_name(labels, v.label);
        HeatTable& table = tables[v.label];
        table.caption = "Accuracy of " + v.label;
        table.corner = "tokens";
        const std::string column = std::to_string(length);
        add_name(table.rows, group);
        add_name(table.columns, column);
        table.values[{group, column}] = accuracy;
      }
  std::string text;
  for (const std::string& label : labels) text += table_html(tables[label]);
  return text;
}

}  // namespace

std::string accuracy_section(const Analysis& analysis) {
  std::string tables = by_length_maps(analysis);
  if (const auto lengths = by_length(analysis))
    tables += by_group_and_length(*lengths);
  else
    for (const Setting& setting : analysis.settings) tables += by_variant(setting);
  return tables.empty() ? "" : "<section>\n<h2>Accuracy in detail</h2>\n" + tables + "</section>\n";
}

}  // namespace filigree
