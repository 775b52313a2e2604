#include "train/report/collect.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <numeric>
#include <set>
#include <sstream>

#include "core/file.h"
#include "train/config/layouts.h"
#include "train/config/tree.h"
#include "train/record/summary.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json read_json(const fs::path& path) {
  Json json = Json::parse(read_file(path), nullptr, false);
  if (!json.is_object()) fail(ErrorKind::data, "{}: is damaged: no JSON object", path.string());
  return json;
}

// The sum of a number over the layers of a line of telemetry.
double total(const Json& layers, const char* key) {
  double sum = 0;
  for (const Json& layer : layers) sum += layer.at(key).get<double>();
  return sum;
}

void read_learning(double step, const Json& layers, RunData& run) {
  for (const auto& [name, key] :
       {std::pair("computed", "actual_tiles"), {"expected", "expected_tiles"}, {"aim", "target_tiles"}})
    run.learning[name].emplace_back(step, total(layers, key));
  std::vector<double> histogram(10);
  for (const Json& layer : layers)
    for (std::size_t i = 0; i < histogram.size(); ++i)
      histogram[i] += layer.at("gate_histogram").at(i).get<double>();
  const double all = std::accumulate(histogram.begin(), histogram.end(), 0.0);
  if (all == 0) return;  // a router has no gates
  run.learning["open"].emplace_back(step, histogram.back() / all);
  run.learning["closed"].emplace_back(step, histogram.front() / all);
  run.learning["between"].emplace_back(step, (all - histogram.front() - histogram.back()) / all);
}

void read_curves(const fs::path& metrics, RunData& run) {
  std::istringstream lines(read_file(metrics));
  for (std::string line; std::getline(lines, line);) {
    const Json json = Json::parse(line, nullptr, false);
    if (!json.is_object())
      fail(ErrorKind::data, "{}: is damaged: a line is no JSON object", metrics.string());
    const double step = json.value("step", 0.0);
    if (has_validation_loss(json)) {
      run.validation.emplace_back(step, json["val_loss"]);
      if (json.contains("val_loss_hardened")) {
        run.learning["hardened"].emplace_back(step, json["val_loss_hardened"]);
        run.learning["as learned"].emplace_back(step, json["val_loss"]);
      }
    } else if (json.contains("loss")) {
      run.train_loss.emplace_back(step, json["loss"]);
    } else if (json.contains("patterns")) {
      read_learning(step, json["patterns"], run);
    }
  }
}

// Of the commands in run.json: the first's start, the last's end, and all that they have beside.
std::map<std::string, std::string> made_by(const Json& commands) {
  std::map<std::string, std::vector<std::string>> values;
  for (const Json& command : commands)
    for (const char* key : {"host", "device", "threads", "version", "commit", "build"}) {
      const Json value = command.value(key, Json("unknown"));
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      if (std::ranges::count(values[key], text) == 0) values[key].push_back(text);
    }
  std::map<std::string, std::string> made;
  for (const auto& [key, texts] : values) made[key] = fmt::format("{}", fmt::join(texts, " / "));
  made["start"] = commands.empty() ? "unknown" : commands.front().value("start", "unknown");
  made["end"] = commands.empty() ? "unknown" : commands.back().value("end", "unknown");
  return made;
}

// Reads all that the report will read, so that what is missing is found here.
void check_summary(const Json& summary) {
  for (const Json& group : summary.at("layers")) {
    if (!group.at("layers").is_array()) fail(ErrorKind::data, "its files are damaged: layers are no list");
    for (const char* key : {"tile", "computed_tiles", "dense_tiles", "exact_pairs", "dense_pairs"})
      group.at(key).get<double>();
  }
  for (const char* key : {"step_seconds", "tokens_per_second", "train_seconds", "peak_bytes"})
    summary.at("timing").at(key).get<double>();
  for (const char* key : {"val_accuracy", "val_bits_per_byte", "val_loss", "train_loss"})
    if (summary.contains(key)) summary.at(key).get<double>();
  if (summary.contains("data")) {
    for (const char* key : {"train", "tokenizer"}) summary.at("data").at(key).get<std::string>();
    summary.at("data").at("validation");
  }
  for (const Json& bucket : summary.value("val_loss_by_position", Json::array()))
    for (const char* key : {"first", "last", "loss"}) bucket.at(key).get<double>();
  for (const Json& there : summary.value("val_by_length", Json::array())) {
    there.at("length").get<std::int64_t>();
    if (there.contains("accuracy")) there.at("accuracy").get<double>();
  }
}

void fill(RunData& run) {
  const fs::path& folder = run.folder;
  if (!fs::exists(folder / "run.json")) fail(ErrorKind::data, "has not started");
  const Json json = read_json(folder / "run.json");
  const Json commands = json.value("commands", Json::array());
  run.made = made_by(commands);
  if (json.value("status", "") != "finished") {
    const std::string error = commands.empty() ? "" : commands.back().value("error", "");
    fail(ErrorKind::data, "{}", error.empty() ? "is not finished" : "failed: " + error);
  }
  run.config_yaml = read_file(folder / "config.yaml");
  run.config = parse_config(parse_yaml(run.config_yaml, (folder / "config.yaml").string()));
  read_curves(folder / "metrics.jsonl", run);
  const fs::path summary = folder / "summary.json";
  run.summary = fs::exists(summary)
                    ? read_json(summary)
                    : summarize(folder / "metrics.jsonl", build_layouts(run.config, run.config.data.seq_len));
  if (run.summary.contains("val_loss") && !has_validation_loss(run.summary))
    for (const char* key : {"val_loss", "best_val_loss"}) run.summary.erase(key);
  check_summary(run.summary);
}

void flatten(const YamlNode& node, const std::string& path,
             std::vector<std::pair<std::string, std::string>>& out) {
  if (!node.is_map() || path == "pattern" || path == "data.task") {
    out.emplace_back(path, one_line(node));
    return;
  }
  for (const auto& [key, value] : node.entries)
    flatten(value, path.empty() ? key.scalar : path + "." + key.scalar, out);
}

// Runs with one name in which more than the seed differs are told apart by the keys that do.
void tell_apart(std::vector<RunData>& runs) {
  using Settings = std::vector<std::pair<std::string, std::string>>;
  std::map<std::pair<std::string, std::string>, std::vector<Settings>> same_name;
  for (const RunData& run : runs)
    if (run.problem.empty()) same_name[{run.label, run.setting}].push_back(settings_that_count(run.config));
  for (RunData& run : runs) {
    if (!run.problem.empty()) continue;
    const auto& others = same_name[{run.label, run.setting}];
    const auto everywhere = [&](const auto& entry) {
      return std::ranges::all_of(others, [&](const Settings& o) { return std::ranges::count(o, entry) > 0; });
    };
    for (const auto& entry : settings_that_count(run.config))
      if (!everywhere(entry)) run.label += fmt::format(", {}: {}", entry.first, setting_text(entry.second));
  }
}

// Runs that no sweep names: by their patterns.
void name_by_pattern(std::vector<RunData>& runs) {
  for (RunData& run : runs) {
    run.label =
        run.problem.empty() ? plain_words(run.config.pattern.written) : run.folder.filename().string();
    if (run.label.size() > 40) run.label = run.label.substr(0, 38) + "..";
  }
}

// `alone`: all runs are of this sweep, so what it holds equal holds for all.
void add_sweep(const fs::path& folder, bool alone, Collection& out) {
  const Json sweep = read_json(folder / "sweep.json");
  const std::vector<std::string> compared = sweep.value("compare", std::vector<std::string>{});
  const auto beside = sweep.value("beside_others", std::vector<std::string>{});
  const Json timed = sweep.value("alone", Json::object());
  if (alone) {
    out.title = sweep.value("name", "");
    out.fairness = sweep.value("equal", "");
    out.equal_time = out.fairness.starts_with("training time");
    if (compared != std::vector<std::string>{"pattern"}) out.noun = "variant";
  }
  for (const Json& cell : sweep.value("cells", Json::array())) {
    RunData run = read_run(folder / cell.value("name", ""));
    if (const std::string failure = cell.value("failure", ""); !run.problem.empty() && !failure.empty())
      run.problem = "failed: " + failure;
    const Json labels = cell.value("labels", Json::object());
    for (const auto& [key, label] : labels.items())
      if (alone && key != "seed" && std::ranges::count(out.swept, key) == 0) out.swept.push_back(key);
    for (const auto& [key, label] : labels.items()) {
      if (key == "seed") continue;
      std::string& text = std::ranges::count(compared, key) > 0 ? run.label : run.setting;
      text += (text.empty() ? "" : ", ") + label.get<std::string>();
    }
    if (run.label.empty()) run.label = "all";
    const std::string name = cell.value("name", "");
    run.beside_others = std::ranges::count(beside, name) > 0;
    if (run.beside_others && timed.contains(name))
      run.alone_step_seconds = timed[name].at("step_seconds").get<double>();
    out.runs.push_back(std::move(run));
  }
}

}  // namespace

RunData read_run(const fs::path& folder) {
  RunData run;
  run.folder = folder;
  try {
    fill(run);
  } catch (const Error& e) {
    run.problem = e.what();
  } catch (const Json::exception& e) {
    run.problem = fmt::format("its files are damaged ({})", e.what());
  }
  return run;
}

std::string setting_text(const std::string& value) {
  if (value.find_first_of(".e") == std::string::npos) return value;
  double number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  return error == std::errc() && end == value.data() + value.size() ? fmt::format("{:.12g}", number) : value;
}

std::vector<std::pair<std::string, std::string>> settings_that_count(const Config& config) {
  std::vector<std::pair<std::string, std::string>> settings;
  flatten(config.to_yaml(), "", settings);
  static const std::set<std::string> without = {"seed",
                                                "threads",
                                                "cuda_graph",
                                                "train.micro_batch_size",
                                                "train.out",
                                                "train.log_interval",
                                                "train.eval_interval",
                                                "model.activation_checkpointing"};
  std::erase_if(settings, [&](const auto& entry) {
    return without.contains(entry.first) || entry.first.starts_with("checkpoint.") ||
           entry.first.starts_with("log.");
  });
  return settings;
}

Collection collect(const std::vector<fs::path>& folders) {
  Collection out;
  std::vector<RunData> singles;
  for (const fs::path& folder : folders) {
    if (fs::exists(folder / "sweep.json")) {
      add_sweep(folder, folders.size() == 1, out);
    } else if (fs::exists(folder / "run.json")) {
      singles.push_back(read_run(folder));
    } else {
      throw Error(ErrorKind::data, fmt::format("{} is no folder of a run or a sweep", folder.string()),
                  "name folders that filigree train or filigree ablate wrote");
    }
  }
  name_by_pattern(singles);
  const bool one_pattern = std::ranges::all_of(
      singles, [&](const RunData& run) { return run.problem.empty() && run.label == singles.front().label; });
  if (singles.size() == folders.size() && one_pattern) out.noun = "variant";
  for (RunData& run : singles) out.runs.push_back(std::move(run));
  tell_apart(out.runs);
  if (out.title.empty())
    out.title = out.runs.size() == 1 ? out.runs.front().folder.filename().string() : "Runs";
  return out;
}

}  // namespace filigree
