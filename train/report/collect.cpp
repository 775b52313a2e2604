#include "train/report/collect.h"

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include "core/file.h"
#include "train/config_internal.h"
#include "train/layouts.h"
#include "train/summary.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json read_json(const fs::path& path) {
  Json json = Json::parse(read_file(path), nullptr, false);
  if (!json.is_object()) fail(ErrorKind::data, "{}: is damaged: no JSON object", path.string());
  return json;
}

void read_curves(const fs::path& metrics, RunData& run) {
  std::istringstream lines(read_file(metrics));
  for (std::string line; std::getline(lines, line);) {
    const Json json = Json::parse(line, nullptr, false);
    if (!json.is_object())
      fail(ErrorKind::data, "{}: is damaged: a line is no JSON object", metrics.string());
    const double step = json.value("step", 0.0);
    if (json.contains("val_loss"))
      run.validation.emplace_back(step, json["val_loss"]);
    else if (json.contains("loss"))
      run.train_loss.emplace_back(step, json["loss"]);
  }
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
  if (read_json(folder / "run.json").value("status", "") != "finished")
    fail(ErrorKind::data, "is not finished");
  run.config_yaml = read_file(folder / "config.yaml");
  run.config = parse_config(parse_yaml(run.config_yaml, (folder / "config.yaml").string()));
  read_curves(folder / "metrics.jsonl", run);
  const fs::path summary = folder / "summary.json";
  run.summary = fs::exists(summary)
                    ? read_json(summary)
                    : summarize(folder / "metrics.jsonl", build_layouts(run.config, run.config.data.seq_len));
  check_summary(run.summary);
}

YamlNode without_seed(Config config) {
  config.seed = 0;
  config.threads = 0;
  config.train.out.clear();
  return config.to_yaml();
}

// "key: value" of a config for every key in which one of the others has something else.
std::vector<std::string> distinctions(const YamlNode& config, const std::vector<YamlNode>& others) {
  std::vector<std::string> out;
  for (const YamlNode& other : others)
    for (const std::string& difference : differences(config, other)) {
      const std::string own = difference.substr(0, difference.find(" / "));
      if (std::ranges::count(out, own) == 0) out.push_back(own);
    }
  return out;
}

// Labels for runs that no sweep names: the pattern, and what tells runs with the same pattern apart.
void name_by_config(std::vector<RunData>& runs) {
  std::map<std::string, std::vector<YamlNode>> configs;  // by pattern
  for (RunData& run : runs) {
    run.label = run.problem.empty() ? plain_words(run.config.pattern) : run.folder.filename().string();
    if (run.label.size() > 40) run.label = run.label.substr(0, 38) + "..";
    if (run.problem.empty()) configs[run.label].push_back(without_seed(run.config));
  }
  for (RunData& run : runs)
    if (run.problem.empty())
      for (const std::string& own : distinctions(without_seed(run.config), configs[run.label]))
        run.label += ", " + own;
}

void add_sweep(const fs::path& folder, Collection& out) {
  const Json sweep = read_json(folder / "sweep.json");
  out.title = sweep.value("name", "");
  out.fairness = sweep.value("equal", "");
  const std::vector<std::string> compared = sweep.value("compare", std::vector<std::string>{});
  const auto beside = sweep.value("beside_others", std::vector<std::string>{});
  const Json alone = sweep.value("alone", Json::object());
  for (const Json& cell : sweep.value("cells", Json::array())) {
    RunData run = read_run(folder / cell.value("name", ""));
    const Json labels = cell.value("labels", Json::object());
    for (const auto& [key, label] : labels.items()) {
      if (key == "seed") continue;
      std::string& text = std::ranges::count(compared, key) > 0 ? run.label : run.setting;
      text += (text.empty() ? "" : ", ") + label.get<std::string>();
    }
    if (run.label.empty()) run.label = "all";
    const std::string name = cell.value("name", "");
    run.beside_others = std::ranges::count(beside, name) > 0;
    if (run.beside_others && alone.contains(name))
      run.alone_step_seconds = alone[name].at("step_seconds").get<double>();
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

Collection collect(const std::vector<fs::path>& folders) {
  Collection out;
  std::vector<RunData> singles;
  for (const fs::path& folder : folders) {
    if (fs::exists(folder / "sweep.json")) {
      add_sweep(folder, out);
    } else if (fs::exists(folder / "run.json")) {
      singles.push_back(read_run(folder));
    } else {
      throw Error(ErrorKind::data, fmt::format("{} is no folder of a run or a sweep", folder.string()),
                  "name folders that filigree train or filigree ablate wrote");
    }
  }
  name_by_config(singles);
  for (RunData& run : singles) out.runs.push_back(std::move(run));
  if (out.title.empty())
    out.title = out.runs.size() == 1 ? out.runs.front().folder.filename().string() : "Runs";
  return out;
}

}  // namespace filigree
