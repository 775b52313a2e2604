#include "train/report/tables.h"

#include <algorithm>
#include <array>
#include <map>

#include "attention/tile_layout.h"
#include "data/progress.h"
#include "train/report/findings.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

// RFC 4180
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string csv_number(const Json& object, const char* key) {
  const auto value = object.find(key);
  return value != object.end() && value->is_number() ? value->dump() : "";
}

// A number of each layer, as the mean over layers.
std::string layer_mean(const Json& summary, const char* key) {
  double sum = 0, count = 0;
  for (const Json& group : summary.at("layers")) {
    const auto n = static_cast<double>(group.at("layers").size());
    sum += n * group.at(key).get<double>();
    count += n;
  }
  return fmt::format("{}", sum / std::max(1.0, count));
}

std::string test_name(TestKind kind) {
  switch (kind) {
    case TestKind::paired:
      return "paired t";
    case TestKind::welch:
      return "Welch t";
    case TestKind::none:
      break;
  }
  return "none";
}

Json variant_json(const Variant& v) {
  Json runs = Json::array();
  for (const RunData* run : v.runs) runs.push_back(run->folder.string());
  Json by_seed = Json::object();
  for (const auto& [seed, value] : v.quality) by_seed[std::to_string(seed)] = value;
  return {{"label", v.label},
          {"runs", runs},
          {"quality",
           {{"mean", v.interval.mean},
            {"half_width_95", v.interval.n > 1 ? Json(v.interval.half_width) : Json(nullptr)},
            {"by_seed", by_seed}}},
          {"to_best",
           {{"test", test_name(v.to_best.kind)},
            {"difference", v.to_best.mean},
            {"half_width_95", v.to_best.half_width},
            {"p", v.to_best.p},
            {"p_holm", v.p_adjusted},
            {"significant", v.significant()}}},
          {"tokens_per_second", v.cost.tokens_per_second},
          {"tokens_per_second_range", {v.cost.slowest, v.cost.fastest}},
          {"timed_alone", v.cost.timed_alone},
          {"step_seconds", v.cost.step_seconds},
          {"train_seconds", v.cost.train_seconds},
          {"peak_bytes", v.cost.peak_bytes},
          {"computed_tiles_per_layer", v.cost.computed_tiles},
          {"dense_tiles_per_layer", v.cost.dense_tiles},
          {"computed_pairs_per_layer", v.cost.computed_pairs},
          {"exact_pairs_per_layer", v.cost.exact_pairs},
          {"on_pareto_front", v.on_front}};
}

// {"train.steps": {"100": ["full"], "200": ["near"]}}
Json differences_json(const std::vector<KeyDifference>& differences) {
  Json out = Json::object();
  for (const KeyDifference& difference : differences)
    for (const auto& [text, labels] : difference.values) out[difference.key][text] = labels;
  return out;
}

// A cell of a Markdown table: what would end it is escaped.
std::string markdown_cell(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '|' ? "\\|" : c == '\n' ? " " : std::string(1, c);
  return out;
}

std::string markdown_table(const Setting& setting, const Analysis& analysis) {
  std::string text = "|", rule = "\n|";
  for (const std::string& column : result_columns(analysis)) {
    text += fmt::format(" {} |", markdown_cell(column));
    rule += rule.size() == 2 ? " --- |" : " ---: |";
  }
  text += rule + '\n';
  for (const Variant& v : setting.variants) {
    text += '|';
    for (const std::string& cell : result_row(setting, v, analysis.metric))
      text += fmt::format(" {} |", markdown_cell(cell));
    text += '\n';
  }
  return text;
}

// Accuracy at each length of val_by_length, the mean over the runs of each variant; empty if there is none.
std::string length_table(const Setting& setting) {
  std::map<std::int64_t, std::map<std::string, std::vector<double>>> at;  // by length and variant
  for (const Variant& v : setting.variants)
    for (const RunData* run : v.runs)
      for (const Json& there : run->summary.value("val_by_length", Json::array()))
        if (there.contains("accuracy")) at[there.at("length")][v.label].push_back(there.at("accuracy"));
  if (at.empty()) return "";
  std::string text = "\nAccuracy at other lengths, in tokens:\n\n| pattern |", rule = "| --- |";
  for (const auto& [length, variants] : at) {
    text += fmt::format(" {} |", length);
    rule += " ---: |";
  }
  text += '\n' + rule + '\n';
  for (const Variant& v : setting.variants) {
    text += fmt::format("| {} |", markdown_cell(v.label));
    for (const auto& [length, variants] : at) {
      const auto found = variants.find(v.label);
      text += found == variants.end() ? " – |" : fmt::format(" {:.1f} % |", 100 * mean_of(found->second));
    }
    text += '\n';
  }
  return text;
}

}  // namespace

std::string memory_text(double bytes) {
  const double mib = bytes / 1048576;
  return mib < 1024 ? fmt::format("{:.0f} MiB", mib) : fmt::format("{:.2f} GiB", mib / 1024);
}

std::vector<std::string> result_columns(const Analysis& analysis) {
  return {analysis.noun,
          analysis.metric.name,
          "behind the first",
          "significant",
          "tokens/s",
          "peak memory",
          "training time",
          "of full attention's tiles",
          "useful pairs of computed",
          "seeds"};
}

std::vector<std::string> result_row(const Setting& setting, const Variant& v, const Metric& metric) {
  const Variant& first = setting.variants.front();
  std::string behind = &v == setting.winner() ? "best" : "–", test = "–";
  if (setting.ranked() && &v != &first)
    behind = metric.difference(std::abs(v.interval.mean - first.interval.mean));
  if (v.to_best.kind != TestKind::none)
    test = fmt::format("{} ({})", v.significant() ? "yes" : "no", p_text(v.p_adjusted));
  return {v.label,
          with_interval(v.interval, metric),
          behind,
          test,
          rate_text(v.cost),
          memory_text(v.cost.peak_bytes),
          human_duration(v.cost.train_seconds),
          percent_text(v.cost.tiles_of_full()),
          fmt::format("{:.1f} %", 100 * v.cost.exact_pairs / std::max(1.0, v.cost.computed_pairs)),
          std::to_string(v.interval.n)};
}

std::string problem_of(const RunData& run, const Analysis& analysis) {
  const auto left_out = std::ranges::find(analysis.left_out, &run, &LeftOut::run);
  if (left_out != analysis.left_out.end()) return left_out->why;
  std::string unlike;
  for (const Setting& setting : analysis.settings)
    if (setting.label == run.setting)
      for (const KeyDifference& difference : setting.circumstances.unlike)
        unlike += (unlike.empty() ? "cannot be compared: " : "; ") + difference.text();
  return unlike;
}

std::string results_csv(const Collection& collection, const Analysis& analysis) {
  constexpr std::array kMade = {"start", "end", "host", "device", "threads", "version", "commit", "build"};
  std::string text = fmt::format(
      "run,pattern,setting,seed,problem,val_accuracy,val_bits_per_byte,val_loss,best_val_loss,train_loss,"
      "steps,"
      "tokens,tokens_per_second,step_seconds,train_seconds,peak_bytes,computed_tiles_per_layer,"
      "dense_tiles_per_layer,exact_pairs_per_layer,dense_pairs_per_layer,timed_alone,train_data,"
      "validation_data,tokenizer,{}\n",
      fmt::join(kMade, ","));
  for (const RunData& run : collection.runs) {
    const bool good = run.problem.empty();
    text += fmt::format("{},{},{},{},{}", csv_field(run.folder.string()), csv_field(run.label),
                        csv_field(run.setting), good ? std::to_string(run.config.seed) : "",
                        csv_field(problem_of(run, analysis)));
    const Json& summary = run.summary;
    for (const char* key :
         {"val_accuracy", "val_bits_per_byte", "val_loss", "best_val_loss", "train_loss", "steps", "tokens"})
      text += "," + (good ? csv_number(summary, key) : "");
    const RunSpeed speed = good ? speed_of(run) : RunSpeed{};
    text += good
                ? fmt::format(",{},{}", Json(speed.tokens_per_second).dump(), Json(speed.step_seconds).dump())
                : ",,";
    for (const char* key : {"train_seconds", "peak_bytes"})
      text += "," + (good ? csv_number(summary.at("timing"), key) : "");
    for (const char* key : {"computed_tiles", "dense_tiles", "exact_pairs", "dense_pairs"})
      text += "," + (good ? layer_mean(summary, key) : "");
    text += !good ? "," : speed.timed_alone ? ",yes" : ",no";
    const Json data = good ? summary.value("data", Json::object()) : Json::object();
    for (const char* key : {"train", "validation", "tokenizer"}) {
      const Json value = data.value(key, Json());
      text += "," + (value.is_string() ? csv_field(value.get<std::string>()) : "");
    }
    for (const char* key : kMade) {
      const auto value = run.made.find(key);
      text += "," + (value == run.made.end() ? "" : csv_field(value->second));
    }
    text += '\n';
  }
  return text;
}

std::string results_json(const Collection& collection, const Analysis& analysis) {
  Json settings = Json::array();
  for (const Setting& setting : analysis.settings) {
    Json variants = Json::array();
    for (const Variant& v : setting.variants) variants.push_back(variant_json(v));
    settings.push_back({{"setting", setting.label},
                        {"verdict", word(setting.verdict)},
                        {"winner", setting.winner() ? Json(setting.winner()->label) : Json(nullptr)},
                        {"unlike", differences_json(setting.circumstances.unlike)},
                        {"differ_beside", differences_json(setting.circumstances.beside)},
                        {"findings", findings(setting, analysis)},
                        {"variants", variants}});
  }
  Json runs = Json::array();
  for (const RunData& run : collection.runs) {
    Json entry{{"run", run.folder.string()}, {"label", run.label}, {"setting", run.setting}};
    if (const std::string problem = problem_of(run, analysis); !problem.empty()) entry["problem"] = problem;
    entry["made"] = run.made;
    if (run.problem.empty()) {
      entry["seed"] = run.config.seed;
      entry["summary"] = run.summary;
    }
    runs.push_back(std::move(entry));
  }
  const Json out{{"title", collection.title},     {"equal", collection.fairness},
                 {"metric", analysis.metric.key}, {"higher_is_better", analysis.metric.higher_is_better},
                 {"settings", settings},          {"runs", runs}};
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
}

std::string results_markdown(const Collection& collection, const Analysis& analysis) {
  std::string text = fmt::format("# {}\n", markdown_cell(collection.title));
  if (!collection.fairness.empty()) text += fmt::format("\nHeld equal: {}.\n", collection.fairness);
  if (!analysis.left_out.empty()) text += "\nLeft out:\n\n";
  for (const auto& [run, why] : analysis.left_out)
    text += fmt::format("- {}: {}\n", run->folder.string(), why);
  for (const Setting& setting : analysis.settings) {
    if (!setting.label.empty()) text += fmt::format("\n## {}\n", markdown_cell(setting.label));
    text += '\n';
    if (const std::string beside = differences_beside(setting, analysis); !beside.empty())
      text += beside + "\n\n";
    for (const std::string& sentence : findings(setting, analysis)) text += sentence + '\n';
    text += '\n' + markdown_table(setting, analysis) + length_table(setting);
  }
  return text;
}

}  // namespace filigree
