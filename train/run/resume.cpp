#include "train/run/resume.h"

#include <algorithm>

#include "core/file.h"
#include "core/output_check.h"
#include "data/sources.h"

namespace filigree {
namespace {

// The checkpoint that the run goes on from, if it goes on.
std::optional<RunFolder::Found> resumed_checkpoint(const TrainRequest& request) {
  if (run_mode(request) != RunMode::resume) return std::nullopt;
  if (request.resume != "auto") return checkpoint_to_resume(request.resume);
  const std::filesystem::path out = request.config.train.out;
  if (!std::filesystem::exists(out / "run.json")) return std::nullopt;
  return checkpoint_to_resume(out);
}

// The run that --overwrite began and a signal or a power cut stopped: nobody means to lose that.
std::optional<RunFolder::Found> stopped_by_this_command(RunFolder& folder, const Config& config,
                                                        const Progression& now) {
  auto found = folder.begun_by_overwrite(config);
  if (!found) return std::nullopt;
  const std::string origin = found->path.string();
  try {
    require_same_data(Progression::from_json(found->contents.state_json, origin), now, origin);
  } catch (const Error& e) {
    fmt::print("overwrite starts anew: {}\n", e.what());
    return std::nullopt;
  }
  folder.go_on();
  fmt::print(
      "overwrite goes on with the unfinished run that it began; --resume never --overwrite starts anew\n");
  return found;
}

}  // namespace

RunMode run_mode(const TrainRequest& request) {
  if (request.overwrite) return RunMode::overwrite;
  return request.resume == "never" ? RunMode::start : RunMode::resume;
}

void refuse_own_checkpoints(const TrainRequest& request) {
  if (run_mode(request) != RunMode::overwrite) return;
  const std::filesystem::path out = request.config.train.out;
  const auto refuse = [&](const std::string& named, const std::string& what, const std::string& hint) {
    std::error_code ignored;
    if (named.empty()) return;
    if (std::filesystem::equivalent(named, out, ignored) ||
        std::filesystem::equivalent(run_of_file(named), out, ignored))
      throw Error(ErrorKind::usage,
                  fmt::format("{} {} is of the run {}, which --overwrite removes", what, named, out.string()),
                  hint);
  };
  if (request.resume != "auto" && request.resume != "never")
    refuse(request.resume, "--resume", "leave out --overwrite: the run goes on from there");
  refuse(request.config.train.init_from, "train.init_from", "choose another train.out");
}

void refuse_own_folder(const Config& config) {
  auto run = std::filesystem::weakly_canonical(config.train.out);
  if (!run.has_filename()) run = run.parent_path();  // written with a slash at its end
  for (const auto* inputs : {&config.data.train, &config.data.val})
    for (const auto& path : expand_paths(*inputs)) {
      const auto input = std::filesystem::weakly_canonical(path);
      const auto [end, rest] = std::mismatch(run.begin(), run.end(), input.begin(), input.end());
      require(end != run.end(), "the data {} is in the run's own folder; choose another train.out",
              path.string());
    }
}

std::shared_ptr<const Tokenizer> resumed_tokenizer(const TrainRequest& request) {
  const std::string& name = request.config.data.tokenizer;
  const bool is_gone = name.starts_with("bpe:") && !std::filesystem::exists(name.substr(4));
  if (!is_gone) return nullptr;
  const auto found = resumed_checkpoint(request);
  if (!found) return nullptr;
  auto tokenizer = read_tokenizer(found->contents, found->path.string());
  if (!tokenizer || tokenizer->name() != name)  // a checksum is no file
    fmt::print("tokenizer {} is gone; taken from {}\n", name.substr(4), found->path.string());
  return tokenizer;
}

std::vector<std::string> known_classes(const TrainRequest& request) {
  const Config& config = request.config;
  if (config.model.type != ModelType::encoder_classifier || config.data.task) return {};
  try {
    if (const auto found = resumed_checkpoint(request))
      return trained_on(found->contents.state_json, found->path.string()).classes;
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::data || request.resume != "auto") throw;
    // Nothing is saved yet, or all is damaged, which the run itself will say.
  }
  if (config.train.init_from.empty()) return {};
  const auto path = find_checkpoint(config.train.init_from);
  return class_names(trained_on(read_state(path), path.string()), path.string());
}

Resumed find_resumed(RunFolder& folder, const TrainRequest& request, const Config& config,
                     const Progression& now) {
  Resumed resumed;
  std::optional<RunFolder::Found>& found = resumed.checkpoint;
  bool repeats = request.resume == "auto";  // the same command goes on, it does not begin anew
  if (request.resume != "auto" && request.resume != "never") {
    found = checkpoint_to_resume(request.resume);
    if (folder.has_begun_from(found->path)) {
      found = folder.latest();  // a fork that was stopped goes on by what it has itself
      repeats = true;
    } else {
      resumed.newest = folder.newest_step();
      if (!folder.is_own(found->path)) resumed.forked_from = found->path;
      repeats = !resumed.forked_from.empty() && !request.overwrite;
    }
  } else {
    if (request.resume == "auto") found = stopped_by_this_command(folder, config, now);
    if (!found) found = folder.latest();
  }
  if (!repeats) resumed.same_command += " without --resume " + request.resume;
  if (found)
    for (const std::string& message : found->damaged) fmt::print(stderr, "filigree: {}\n", message);
  return resumed;
}

void require_room_for_checkpoints(const RunFolder& folder, const Config& config, std::int64_t step,
                                  std::int64_t each, bool evaluates) {
  const CheckpointConfig& kept = config.checkpoint;
  const std::int64_t there = folder.goes_on() ? folder.n_checkpoints() : 0;
  std::int64_t saves = 1;  // the last
  if (kept.interval > 0) saves += (config.train.steps - 1) / kept.interval - step / kept.interval;
  const std::int64_t before = std::max(there, std::min(there + saves - 1, kept.keep));
  const bool best = kept.best && evaluates;
  const std::int64_t files = before + (best ? 1 : 0) + 1;
  const std::int64_t need = files * each + kCheckpointOverhead - folder.checkpoint_bytes_there();
  if (need <= 0) return;
  require_room(
      folder.path(),
      fmt::format("the run {}, which has up to {} checkpoints of {:.1f} MB at a time ({} kept, {}one being "
                  "written)",
                  folder.path().string(), files, static_cast<double>(each) / 1e6, before,
                  best ? "the best, " : ""),
      need, each, "free some space, choose another train.out, or lower checkpoint.keep");
}

}  // namespace filigree
