#include "train/record/run_folder.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/build_info.h"
#include "core/file.h"
#include "core/hdf5.h"
#include "core/parallel.h"
#include "train/config/device_choice.h"
#include "train/record/event_file.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

fs::path run_file(const fs::path& folder) {
  return folder / "run.json";
}
fs::path checkpoint_folder(const fs::path& folder) {
  return folder / "checkpoints";
}

// The step in "step_000100.h5", or -1.
std::int64_t step_of(const fs::path& file) {
  const std::string name = file.filename().string();
  if (!name.starts_with("step_") || !name.ends_with(".h5")) return -1;
  const char *begin = name.data() + 5, *end = name.data() + name.size() - 3;
  std::int64_t step = -1;
  const auto [stop, error] = std::from_chars(begin, end, step);
  return error == std::errc() && stop == end && begin != end ? step : -1;
}

// (step, path) of the checkpoints in a run folder, the newest first.
std::vector<std::pair<std::int64_t, fs::path>> list_checkpoints(const fs::path& folder) {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoint_folder(folder), ignored))
    if (const std::int64_t step = step_of(entry.path()); step >= 0) found.emplace_back(step, entry.path());
  std::sort(found.rbegin(), found.rend());
  return found;
}

std::vector<fs::path> files_of(const std::vector<std::pair<std::int64_t, fs::path>>& checkpoints) {
  std::vector<fs::path> files;
  for (const auto& [step, path] : checkpoints) files.push_back(path);
  return files;
}

// The first of the files that verifies, with what is wrong with those before it; without a path if none does.
RunFolder::Found first_sound(const std::vector<fs::path>& files) {
  RunFolder::Found found;
  for (const fs::path& path : files) {
    try {
      found.contents = read_checkpoint(path);
      found.path = path;
      return found;
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::data) throw;
      found.damaged.emplace_back(e.what());
    }
  }
  return found;
}

constexpr const char* kOverwrite = "overwrite";  // in run.json: the run was begun in that mode

// run.json, or an empty object where there is none.
Json read_status(const fs::path& folder) {
  if (!fs::exists(run_file(folder))) return Json::object();
  const Json json = Json::parse(read_file(run_file(folder)), nullptr, false);
  if (!json.is_object() || !json.contains("status") || !json["status"].is_string())
    throw Error(ErrorKind::data, fmt::format("{}: is not the run.json of a run", run_file(folder).string()),
                "choose another train.out, or --overwrite to start anew");
  return json;
}

// Command lines and errors may name files that are no UTF-8.
void write_status(const fs::path& folder, const Json& status) {
  write_file_atomically(run_file(folder), status.dump(2, ' ', false, Json::error_handler_t::replace) + '\n');
}

std::string utc_now() {
  return fmt::format("{:%FT%TZ}", fmt::gmtime(std::time(nullptr)));
}

[[noreturn]] void fail_disk(const fs::path& path, const std::string& why) {
  throw Error(ErrorKind::disk, fmt::format("cannot use the run folder {}: {}", path.string(), why),
              "check train.out, the permissions and the free space");
}

[[noreturn]] void fail_no_checkpoint(const fs::path& folder) {
  throw Error(ErrorKind::data, fmt::format("{} holds no checkpoint", folder.string()),
              "name a run folder of filigree train, or a checkpoint file");
}

void make_folders(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail_disk(path, error.message());
}

// Files that a run would replace, in a folder that holds none: they are the user's own.
void refuse_foreign(const fs::path& folder) {
  std::error_code ignored;
  std::vector<fs::path> files = {folder / "config.yaml", folder / "metrics.jsonl", folder / "summary.json",
                                 checkpoint_folder(folder) / "best.h5"};
  for (const auto& [step, path] : list_checkpoints(folder)) files.push_back(path);
  for (const fs::path& file : files)
    if (fs::exists(file, ignored))
      throw Error(ErrorKind::usage,
                  fmt::format("{} is no run's folder, but a run would replace its {}", folder.string(),
                              file.lexically_relative(folder).string()),
                  "choose another train.out");
}

// As the run's config.yaml has them; 0 if it does not tell.
std::int64_t steps_of_run(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::exists(folder / "config.yaml", ignored)) return 0;
  const YamlNode config = parse_yaml_file(folder / "config.yaml");
  const YamlNode* train = config.is_map() ? config.find("train") : nullptr;
  const YamlNode* steps = train && train->is_map() ? train->find("steps") : nullptr;
  return steps ? as_integer(*steps, "train.steps", 0, std::numeric_limits<std::int64_t>::max()) : 0;
}

void refuse_existing(const fs::path& folder, RunMode mode, std::int64_t steps) {
  if (mode == RunMode::overwrite) {
    if (!fs::exists(run_file(folder))) refuse_foreign(folder);
    return;
  }
  const Json status = read_status(folder);
  if (status.empty()) return refuse_foreign(folder);
  if (status["status"] == "finished") {
    const std::int64_t done = steps_of_run(folder);
    if (mode == RunMode::resume && steps > 0 && done > 0 && steps != done) return;
    throw Error(
        ErrorKind::usage, fmt::format("{} holds a finished run", folder.string()),
        fmt::format("--overwrite starts it anew;{} or choose another train.out",
                    done > 0 ? fmt::format(" a larger train.steps than {} lengthens it;", done) : ""));
  }
  if (mode == RunMode::start)
    throw Error(ErrorKind::usage, fmt::format("{} holds an unfinished run", folder.string()),
                "--resume auto goes on with it, --overwrite starts it anew; or choose another train.out");
}

// The files that our runs write, and nothing else that may lie in the folder. run.json goes last: while it is
// there, the folder still counts as a run.
void remove_run(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> files = {folder / "config.yaml", folder / "metrics.jsonl", folder / "summary.json",
                                 checkpoint_folder(folder) / "best.h5"};
  for (const auto& [step, path] : list_checkpoints(folder)) files.push_back(path);
  for (const auto& entry : fs::directory_iterator(folder / "tensorboard", error))
    if (entry.path().filename().string().starts_with(kEventFilePrefix)) files.push_back(entry.path());
  files.push_back(run_file(folder));
  for (const fs::path& file : files) {
    fs::remove(file, error);
    if (error) fail_disk(folder, fmt::format("cannot remove {}: {}", file.string(), error.message()));
  }
}

// Files that killed writers left in `folder`.
void remove_leftovers(const fs::path& folder) {
  remove_stale_temporaries(folder);
  std::error_code ignored;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().extension() == ".unproven") leftovers.push_back(entry.path());
  for (const fs::path& path : leftovers) fs::remove(path, ignored);
}

}  // namespace

RunFolder::RunFolder(fs::path folder, RunMode mode, std::int64_t steps)
    : folder_(std::move(folder)), mode_(mode), lock_(folder_, "run folder", "train.out") {
  refuse_existing(folder_, mode_, steps);
}

bool RunFolder::is_own(const fs::path& checkpoint) const {
  std::error_code ignored;
  return fs::equivalent(checkpoint.parent_path(), checkpoint_folder(folder_), ignored);
}

bool RunFolder::has_begun_from(const fs::path& checkpoint) const {
  if (mode_ == RunMode::overwrite || is_own(checkpoint)) return false;
  const Json status = read_status(folder_);
  if (status.empty()) return false;
  if (status.value("began_from", "") != fs::weakly_canonical(checkpoint).string())
    throw Error(
        ErrorKind::usage,
        fmt::format("{} holds a run that did not begin from {}", folder_.string(), checkpoint.string()),
        "choose another train.out, or --overwrite to remove that run");
  return !list_checkpoints(folder_).empty();
}

fs::path RunFolder::checkpoint_path(std::int64_t step) const {
  return checkpoint_folder(folder_) / fmt::format("step_{:06}.h5", step);
}

fs::path RunFolder::best_path() const {
  return checkpoint_folder(folder_) / "best.h5";
}

std::int64_t RunFolder::newest_step() const {
  const auto checkpoints = list_checkpoints(folder_);
  return checkpoints.empty() ? -1 : checkpoints.front().first;
}

std::optional<RunFolder::Found> RunFolder::latest() const {
  if (mode_ == RunMode::overwrite) return std::nullopt;
  Found found = first_sound(files_of(list_checkpoints(folder_)));
  if (!found.path.empty()) return found;
  if (found.damaged.empty()) return std::nullopt;
  throw Error(
      ErrorKind::data,
      fmt::format("every checkpoint of {} is damaged: {}", folder_.string(), fmt::join(found.damaged, "; ")),
      fs::exists(best_path())
          ? "--resume " + best_path().string() + " goes on from the best one; --overwrite starts anew"
          : "--overwrite starts the run anew");
}

std::optional<RunFolder::Found> RunFolder::begun_by_overwrite(const Config& config) const {
  if (mode_ != RunMode::overwrite) return std::nullopt;
  Json status;
  try {
    status = read_status(folder_);
  } catch (const Error&) {
    return std::nullopt;
  }
  if (status.value("status", "") != "unfinished" || !status.value(kOverwrite, false) ||
      status.value("config_hash", "") != config_hash(config))
    return std::nullopt;
  Found found = first_sound(files_of(list_checkpoints(folder_)));
  return found.path.empty() ? std::nullopt : std::optional(std::move(found));
}

std::int64_t RunFolder::n_checkpoints() const {
  return std::ssize(list_checkpoints(folder_));
}

std::int64_t RunFolder::checkpoint_bytes_there() const {
  std::vector<fs::path> files = files_of(list_checkpoints(folder_));
  files.push_back(best_path());
  std::int64_t bytes = 0;
  for (const fs::path& file : files) {
    std::error_code missing;
    const auto size = fs::file_size(file, missing);
    if (!missing) bytes += static_cast<std::int64_t>(size);
  }
  return bytes;
}

void RunFolder::begin(const Config& config, const std::string& command_line, std::int64_t resumed_step,
                      const Origin& origin) {
  Json commands = Json::array();
  std::string began_from = origin.checkpoint.empty() ? "" : fs::weakly_canonical(origin.checkpoint).string();
  bool overwrite = mode_ == RunMode::overwrite;
  if (overwrite) {
    remove_run(folder_);
  } else {
    const Json before = read_status(folder_);
    commands = before.value("commands", Json::array());
    overwrite = before.value(kOverwrite, false);
    if (began_from.empty()) began_from = before.value("began_from", "");
    std::error_code ignored;
    fs::remove(folder_ / "summary.json", ignored);
  }
  commands.push_back({{"from_step", resumed_step},
                      {"command", command_line},
                      {"start", utc_now()},
                      {"host", host_name()},
                      {"device", device_name(device_of(config))},
                      {"threads", n_threads()},
                      {"version", version()},
                      {"commit", commit()},
                      {"build", build()}});
  make_folders(checkpoint_folder(folder_));
  remove_leftovers(checkpoint_folder(folder_));
  mode_ = RunMode::resume;  // from here on the folder holds this run

  Json libraries = Json::object();
  for (const auto& [name, number] : library_versions()) libraries[name] = number;
  Json status = {{"status", "unfinished"}, {"config_hash", config_hash(config)}, {"libraries", libraries},
                 {kOverwrite, overwrite},  {"tokenizer", origin.tokenizer},      {"commands", commands}};
  if (!began_from.empty()) status["began_from"] = began_from;
  write_status(folder_, status);
  write_file_atomically(folder_ / "config.yaml", to_yaml(config.to_yaml()));
}

void RunFolder::save(std::int64_t step, const CheckpointContents& contents, std::int64_t keep) {
  check(keep >= 1, "at least one checkpoint is kept");
  write_checkpoint(checkpoint_path(step), contents);
  std::int64_t kept = 0;
  for (const auto& [other, path] : list_checkpoints(folder_)) {
    if (other <= step && ++kept <= keep) continue;
    std::error_code error;
    fs::remove(path, error);
    if (error) fail_disk(folder_, fmt::format("cannot remove {}: {}", path.string(), error.message()));
  }
}

void RunFolder::save_best(const CheckpointContents& contents) {
  write_checkpoint(best_path(), contents);
}

void RunFolder::finish() {
  end_command("finished", "");
}

void RunFolder::stop(const std::string& error) {
  end_command("unfinished", error);
}

void RunFolder::end_command(const char* status, const std::string& error) {
  Json run = read_status(folder_);
  run["status"] = status;
  Json& command = run["commands"].back();
  command["end"] = utc_now();
  if (!error.empty()) command["error"] = error;
  write_status(folder_, run);
}

RunFolder::Found checkpoint_to_resume(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return {path, read_checkpoint(path), {}};
  std::vector<fs::path> files = files_of(list_checkpoints(path));
  if (const fs::path best = checkpoint_folder(path) / "best.h5"; fs::exists(best, ignored))
    files.push_back(best);
  if (files.empty()) fail_no_checkpoint(path);
  RunFolder::Found found = first_sound(files);
  if (found.path.empty())
    throw Error(
        ErrorKind::data,
        fmt::format("every checkpoint of {} is damaged: {}", path.string(), fmt::join(found.damaged, "; ")),
        "name another run or another copy");
  return found;
}

fs::path find_checkpoint(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return path;
  if (const fs::path best = checkpoint_folder(path) / "best.h5"; fs::exists(best, ignored)) return best;
  const auto checkpoints = list_checkpoints(path);
  if (checkpoints.empty()) fail_no_checkpoint(path);
  return checkpoints.front().second;
}

}  // namespace filigree
