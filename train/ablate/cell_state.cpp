#include "train/ablate/cell_state.h"

#include <nlohmann/json.hpp>

#include "core/file.h"
#include "data/tokenizer.h"
#include "train/config/tree.h"
#include "train/record/run_folder.h"
#include "train/run/run_setup.h"
#include "train/run/trained_data.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// A JSON object in a file; Error(data) if it is none.
Json read_object(const fs::path& path) {
  Json json = Json::parse(read_file(path), nullptr, false);
  if (!json.is_object()) fail(ErrorKind::data, "{}: is damaged: no JSON object", path.string());
  return json;
}

Inspection compare(const Cell& cell) {
  const Config before = parse_config(parse_yaml_file(cell_config_path(cell)));
  const std::vector<std::string> lines = differences(before.counted(), cell.config.counted());
  if (lines.empty()) return {CellState::begun, ""};
  return {CellState::changed, fmt::format("{}", fmt::join(lines, ", "))};
}

// A tokenizer's file may be moved or be gone; one that is there is the one that the cell was trained with.
std::string changed_tokenizer(const Cell& cell, const std::string& before) {
  const std::string& name = cell.config.data.tokenizer;
  std::error_code ignored;
  if (before.empty() || !name.starts_with("bpe:") || !fs::exists(name.substr(4), ignored)) return "";
  const std::string now = make_tokenizer(name)->name();
  return now == before ? "" : fmt::format("data.tokenizer: {} / {}", before, now);
}

Inspection inspect(const Cell& cell) {
  const fs::path folder = cell_folder(cell);
  const bool has_run = fs::exists(folder / "run.json");
  if (!fs::exists(cell_config_path(cell))) {
    if (!has_run) return {};
    return {CellState::damaged, fmt::format("{}: its cell.yaml is missing", folder.string())};
  }
  if (!has_run) return {};  // stopped before its first step
  const Inspection same = compare(cell);
  if (same.state == CellState::changed) return same;
  const Json run = read_object(folder / "run.json");
  if (const std::string problem = changed_tokenizer(cell, run.value("tokenizer", "")); !problem.empty())
    return {CellState::changed, problem};
  if (run.value("status", "") != "finished") return same;
  read_object(folder / "summary.json");
  return {CellState::finished, ""};
}

}  // namespace

fs::path cell_folder(const Cell& cell) {
  return cell.config.train.out;
}
fs::path cell_config_path(const Cell& cell) {
  return cell_folder(cell) / "cell.yaml";
}
fs::path next_config_path(const Cell& cell) {
  return cell_folder(cell) / "cell.next.yaml";
}
fs::path cell_log_path(const Cell& cell) {
  return cell_folder(cell) / "output.log";
}

Inspection inspect_cell(const Cell& cell) {
  try {
    return inspect(cell);
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::disk) throw;
    return {CellState::damaged, e.what()};
  } catch (const Json::exception& e) {
    return {CellState::damaged, fmt::format("{}: {}", cell_folder(cell).string(), e.what())};
  }
}

bool DataCheck::has_changed(const Cell& cell) {
  const Config& config = cell.config;
  if (config.data.task) return false;
  TrainedOn then;
  try {
    const fs::path checkpoint = find_checkpoint(cell_folder(cell));
    then = trained_on(read_state(checkpoint), checkpoint.string());
  } catch (const Error&) {
    return false;  // its checkpoints were removed: nothing tells
  }
  YamlNode data = *config.to_yaml().find("data");
  const std::string key = fmt::format("{} {}\n{}", word(config.model.type), config.seed,
                                      to_yaml(data.set("seq_len", YamlNode::make(0))));
  auto found = now_.find(key);
  if (found == now_.end()) {
    DataRequest request = data_request(config);
    request.known_classes = then.classes;
    const OpenedData opened = open_data(request);
    found = now_.emplace(key, trained_on(opened)).first;
  }
  return found->second.data != then.data ||
         (!then.validation.empty() && found->second.validation != then.validation);
}

void write_cell_config(const Cell& cell, const fs::path& path) {
  std::error_code error;
  fs::create_directories(cell_folder(cell), error);
  if (error)
    throw Error(ErrorKind::disk,
                fmt::format("cannot make {}: {}", cell_folder(cell).string(), error.message()),
                "check --out, the permissions and the free space");
  write_file_atomically(path, to_yaml(cell.config.to_yaml()));
}

}  // namespace filigree
