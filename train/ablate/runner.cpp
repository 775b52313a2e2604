#include "train/ablate/runner.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "attention/tile_layout.h"
#include "core/file.h"
#include "core/parallel.h"
#include "data/progress.h"
#include "data/sources.h"
#include "train/ablate/budget.h"
#include "train/ablate/cell_state.h"
#include "train/ablate/child.h"
#include "train/ablate/fairness.h"
#include "train/ablate/progress_line.h"
#include "train/config/layouts.h"
#include "train/record/checkpoint.h"
#include "train/record/folder_lock.h"
#include "train/record/run_folder.h"
#include "train/report/report.h"
#include "train/run/run_setup.h"
#include "train/run/signals.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr std::int64_t kTimedSteps = 8;

struct Running {
  const Cell* cell;
  std::unique_ptr<Child> child;
  std::uintmax_t log_begin;  // the log's size when it started
  std::string run_before;    // run.json of the run that it is to replace
};

std::string run_file_of(const Cell& cell) {
  const fs::path file = cell_folder(cell) / "run.json";
  return fs::exists(file) ? read_file(file) : "";
}

std::uintmax_t size_or_zero(const fs::path& path) {
  std::error_code missing;
  const auto size = fs::file_size(path, missing);
  return missing ? 0 : size;
}

// What the sweep writes would be data of the cells that come later.
void refuse_folder_in_data(const Sweep& sweep) {
  const auto out = fs::weakly_canonical(sweep.out);
  for (const auto* inputs : {&sweep.cells.front().config.data.train, &sweep.cells.front().config.data.val})
    for (const fs::path& input : expand_paths(*inputs)) {
      const auto data = fs::weakly_canonical(input);
      const auto [end, rest] = std::mismatch(data.begin(), data.end(), out.begin(), out.end());
      require(end != data.end(), "the sweep's folder {} lies in its data, {}; choose another --out",
              sweep.out.string(), input.string());
    }
}

// Files of tokens hold theirs, and one tokenizer has many names: an axis of them that changes nothing would
// be compared by chance.
void refuse_idle_tokenizers(const Sweep& sweep) {
  const auto axis = std::ranges::find(sweep.axes, "data.tokenizer", &Axis::key);
  if (axis == sweep.axes.end()) return;
  const auto at = static_cast<std::size_t>(axis - sweep.axes.begin());
  std::map<std::string, const Cell*> known;  // by tokenizer and all other labels
  for (const Cell& cell : sweep.cells) {
    std::vector<std::string> labels = cell.labels;
    try {
      labels[at] = find_tokenizer(data_request(cell.config));
    } catch (const Error& e) {
      throw Error(e.kind(), fmt::format("{} (cell {})", e.what(), cell.name), e.hint());
    }
    const auto [other, is_new] = known.emplace(fmt::format("{}", fmt::join(labels, "_")), &cell);
    if (!is_new)
      fail_at(axis->mark,
              fmt::format("cells {} and {} are the same run: both have the tokenizer {}", other->second->name,
                          cell.name, labels[at]),
              "remove one of the values");
  }
}

// A config without its seed and its folder.
std::string hash_without_seed(Config config) {
  config.seed = 0;
  return config_hash(config);
}

class Ablation {
 public:
  explicit Ablation(AblateRequest request)
      : request_(std::move(request)),
        sweep_(request_.sweep),
        lock_(sweep_.out, "sweep's folder", "--out"),
        threads_(std::max(1, total_threads() / request_.jobs)) {}

  int run() {
    const StopSignals signals;
    read_sweep_file();
    if (sweep_.equal.rule == Fairness::time && !measure()) {
      StatusLine line;
      line.leave();  // after the ^C that the terminal printed
      line.note(stopped_text());
      return kExitResumable;
    }
    inspect();
    check_data();
    check_weights();
    write_sweep_file();
    ProgressLine progress(sweep_, request_.jobs);
    for (const Cell& cell : sweep_.cells)
      if (finished_.contains(&cell)) progress.ends(cell, true);
    for (const Cell* cell : queue_) progress.waits(*cell);
    for (const auto& [cell, problem] : failures_) {
      progress.ends(*cell, false);
      progress.note(fmt::format("failed    {}: {}", cell->name, problem));
    }
    work(progress);
    time_alone(progress);
    report(progress);
    if (StopSignals::requested()) {
      progress.note(stopped_text());
      return kExitResumable;
    }
    return failures_.empty() ? 0 : exit_code_;
  }

 private:
  int total_threads() const {
    const int asked = sweep_.cells.front().config.threads;
    return asked > 0 ? asked : n_threads();
  }

  // --- sweep.json ---

  fs::path sweep_file() const { return sweep_.out / "sweep.json"; }

  // What is kept of an earlier start: measured speeds, and which cells ran beside others.
  void read_sweep_file() {
    if (!fs::exists(sweep_file())) return refuse_foreign_results();
    const Json json = Json::parse(read_file(sweep_file()), nullptr, false);
    if (!json.is_object())
      throw Error(ErrorKind::data, fmt::format("{} is damaged: no JSON object", sweep_file().string()),
                  "remove it: it is made anew, and finished cells are kept");
    probes_ = json.value("step_seconds", Json::object());
    alone_ = json.value("alone", Json::object());
    beside_ = json.value("beside_others", std::set<std::string>{});
  }

  // Files that the sweep would replace, in a folder that holds none: they are the user's own.
  void refuse_foreign_results() const {
    for (const char* name : kReportFiles)
      if (fs::exists(sweep_.out / name))
        throw Error(ErrorKind::usage,
                    fmt::format("{} is no sweep's folder, but a sweep would replace its {}",
                                sweep_.out.string(), name),
                    "choose another --out");
  }

  void write_sweep_file() const {
    Json cells = Json::array();
    for (const Cell& cell : sweep_.cells) {
      Json labels = Json::object();
      for (std::size_t a = 0; a < sweep_.axes.size(); ++a) labels[sweep_.axes[a].key] = cell.labels[a];
      Json entry{{"name", cell.name}, {"labels", labels}};
      const auto failure = std::ranges::find(failures_, &cell, &std::pair<const Cell*, std::string>::first);
      if (failure != failures_.end()) entry["failure"] = failure->second;
      if (cell.fitted)
        entry["fitted"] = {{"parameter", cell.fitted->parameter},
                           {"value", cell.fitted->value},
                           {"tiles_per_layer", cell.fitted->tiles},
                           {"target", cell.fitted->target}};
      cells.push_back(std::move(entry));
    }
    const Json json{
        {"name", sweep_.name},     {"equal", rule_text(sweep_.equal)}, {"compare", sweep_.compare},
        {"step_seconds", probes_}, {"beside_others", beside_},         {"alone", alone_},
        {"cells", cells}};
    write_file_atomically(sweep_file(), json.dump(2, ' ', false, Json::error_handler_t::replace) + '\n');
  }

  static std::string rule_text(const Equal& equal) {
    switch (equal.rule) {
      case Fairness::tiles:
        return fmt::format("computed tiles per layer, within {:.3g} %", 100 * equal.tolerance);
      case Fairness::time:
        return equal.like.empty() ? fmt::format("training time, {:.6g} s", equal.seconds)
                                  : fmt::format("training time, that of {}", equal.like);
      case Fairness::none:
        break;
    }
    return "";
  }

  // --- equal: time ---

  // False if a signal came first.
  bool measure() {
    StepSeconds step_seconds;
    for (const Cell& cell : sweep_.cells) {
      const std::string variant = sweep_.variant(cell);
      if (step_seconds.contains(variant)) continue;
      const Config probe = probe_config(cell, sweep_.equal.probe_steps);
      const std::string hash = fmt::format("{}-{}", hash_without_seed(probe), threads_);
      if (!probes_.contains(variant) || probes_[variant].value("config", "") != hash) {
        say(stdout, fmt::format("equal time: measuring {}\n", variant));
        const auto seconds = probe_seconds(cell, probe);
        if (!seconds) return false;
        probes_[variant] = {{"seconds", *seconds}, {"config", hash}};
      }
      step_seconds[variant] = probes_[variant].at("seconds");
    }
    set_steps(sweep_, step_seconds);
    for (const Cell& cell : sweep_.cells)
      say(stdout, fmt::format("equal time: {} trains {} steps of {:.4g} s\n", cell.name,
                              cell.config.train.steps, step_seconds.at(sweep_.variant(cell))));
    return true;
  }

  std::optional<double> probe_seconds(const Cell& cell, const Config& probe) {
    Cell as_cell = cell;
    as_cell.config = probe;
    write_cell_config(as_cell, cell_config_path(as_cell));
    const fs::path folder = cell_folder(as_cell), log = cell_log_path(as_cell);
    const auto begin = size_or_zero(log);
    Child child({own_binary(), "train", cell_config_path(as_cell), fmt::format("threads={}", threads_),
                 "--overwrite", "--resume", "never"},
                log);
    while (!child.poll()) {
      std::this_thread::sleep_for(kPoll);
      if (StopSignals::requested()) child.stop();
    }
    if (StopSignals::requested()) return std::nullopt;
    if (*child.poll() != 0)
      fail(ErrorKind::usage, "measuring the speed of cell {} failed: {} (log: {})", cell.name,
           last_error(log, begin, *child.poll()), log.string());
    const double seconds = median_step_seconds(folder / "metrics.jsonl");
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    return seconds;
  }

  // --- speeds ---

  // The speed of a cell that ran beside others is that of the company it had: each is timed again for a few
  // steps, alone. What learns its pattern has no such speed: its first steps are not like the others.
  void time_alone(ProgressLine& progress) {
    if (!request_.time_alone) return;
    std::vector<std::pair<const Cell*, Config>> untimed;
    for (const Cell& cell : sweep_.cells) {
      if (!finished_.contains(&cell) || !beside_.contains(cell.name) || layer_patterns(cell.config)->learns())
        continue;
      Config probe = probe_config(cell, kTimedSteps);
      if (alone_.value(cell.name, Json::object()).value("config", "") != timing_hash(probe))
        untimed.emplace_back(&cell, std::move(probe));
    }
    if (untimed.empty() || StopSignals::requested()) return;
    progress.note(fmt::format("timing    {} cells, each alone for {} steps, since they ran beside others",
                              untimed.size(), kTimedSteps));
    for (const auto& [cell, probe] : untimed) {
      try {
        const auto seconds = probe_seconds(*cell, probe);
        if (!seconds) return progress.interrupted();
        alone_[cell->name] = {{"step_seconds", *seconds}, {"config", timing_hash(probe)}};
        write_sweep_file();
      } catch (const Error& e) {  // the results do not depend on it
        if (e.kind() == ErrorKind::disk) throw;
        progress.note(fmt::format("untimed   {}", e.what()));
      }
    }
  }

  std::string timing_hash(const Config& probe) const {
    return fmt::format("{}-{}", config_hash(probe), threads_);
  }

  // --- cells ---

  // Weights that are not there, or damaged, would fail one cell after another.
  void check_weights() const {
    std::set<std::string> sound;
    for (const Cell* cell : queue_)
      if (const std::string& weights = cell->config.train.init_from;
          !weights.empty() && sound.insert(weights).second)
        inspect_checkpoint(find_checkpoint(weights));
  }

  // Sorts the cells into finished ones, those to run and damaged ones; refuses changed ones.
  void inspect() {
    std::vector<std::string> changed;
    for (const Cell& cell : sweep_.cells) {
      const Inspection found = inspect_cell(cell);
      const bool unusable = found.state == CellState::changed || found.state == CellState::damaged;
      if (found.state == CellState::finished) {
        finished_.insert(&cell);
      } else if (unusable && request_.overwrite) {
        anew_.insert(&cell);
        queue_.push_back(&cell);
      } else if (found.state == CellState::changed) {
        changed.push_back(fmt::format("{} ({})", cell.name, found.problem));
      } else if (found.state == CellState::damaged) {
        fails(cell, found.problem + "; --overwrite trains it anew", static_cast<int>(ErrorKind::data));
      } else {
        queue_.push_back(&cell);
      }
    }
    if (changed.empty()) return;
    const std::size_t n = changed.size();
    if (n > 5) changed.resize(5);
    throw Error(
        ErrorKind::usage,
        fmt::format("{} of {} cells in {} were trained with another config: {}{}", n, sweep_.cells.size(),
                    sweep_.out.string(), fmt::join(changed, "; "), n > 5 ? "; .." : ""),
        "--overwrite trains these anew and keeps the others; or choose another --out");
  }

  // What is trained now will be compared with the finished cells, so it must be on the same data.
  void check_data() {
    if (queue_.empty()) return;
    DataCheck check;
    std::vector<const Cell*> changed;
    for (const Cell* cell : finished_)
      if (check.has_changed(*cell)) changed.push_back(cell);
    if (changed.empty()) return;
    if (!request_.overwrite)
      throw Error(
          ErrorKind::data,
          fmt::format("{} of {} cells in {} were trained on data that has changed since, such as {}",
                      changed.size(), sweep_.cells.size(), sweep_.out.string(), changed.front()->name),
          "restore the data; or --overwrite trains these anew; or choose another --out");
    for (const Cell* cell : changed) {
      finished_.erase(cell);
      anew_.insert(cell);
      queue_.push_back(cell);
    }
  }

  void fails(const Cell& cell, const std::string& problem, int exit_code) {
    if (failures_.empty()) exit_code_ = exit_code;
    failures_.emplace_back(&cell, problem);
  }

  void start(const Cell& cell, ProgressLine& progress) {
    const bool anew = anew_.contains(&cell);
    write_cell_config(cell, anew ? next_config_path(cell) : cell_config_path(cell));
    const fs::path log = cell_log_path(cell);
    std::vector<std::string> arguments = {own_binary(), "train",
                                          anew ? next_config_path(cell) : cell_config_path(cell),
                                          fmt::format("threads={}", threads_)};
    if (anew) arguments.emplace_back("--overwrite");
    if (anew || !fs::exists(cell_folder(cell) / "run.json")) beside_.erase(cell.name);
    const auto begin = size_or_zero(log);
    running_.push_back(
        {&cell, std::make_unique<Child>(std::move(arguments), log), begin, anew ? run_file_of(cell) : ""});
    progress.starts(cell);
    if (running_.size() > 1)
      for (const Running& run : running_) beside_.insert(run.cell->name);
    write_sweep_file();
  }

  // A run that refused to begin has left the old one as it was, which its cell.yaml still describes.
  void settle_config(const Running& run) {
    if (!anew_.contains(run.cell)) return;
    if (run_file_of(*run.cell) != run.run_before)
      rename_durably(next_config_path(*run.cell), cell_config_path(*run.cell));
    else
      fs::remove(next_config_path(*run.cell));
  }

  void start_what_fits(ProgressLine& progress) {
    while (std::ssize(running_) < request_.jobs) {
      // A run that a killed sweep left behind still saves; its cell comes when it is done.
      const auto next = std::ranges::find_if(
          queue_, [](const Cell* cell) { return !FolderLock::is_held(cell_folder(*cell)); });
      if (next == queue_.end()) return;
      const Cell& cell = **next;
      queue_.erase(next);
      start(cell, progress);
    }
  }

  void work(ProgressLine& progress) {
    bool told = false;
    while (!running_.empty() || (!queue_.empty() && !StopSignals::requested())) {
      if (!StopSignals::requested()) start_what_fits(progress);
      if (StopSignals::requested() && !told) {
        told = true;
        progress.interrupted();
        progress.note(running_.size() == 1
                          ? "stopping  1 running cell saves first"
                          : fmt::format("stopping  {} running cells save first", running_.size()));
        for (const Running& run : running_) run.child->stop();
      }
      std::this_thread::sleep_for(kPoll);
      reap(progress);
      if (!told) progress.update();
    }
  }

  // By us: a run saves, one that had not begun yet just ends.
  static bool was_stopped(int exit_code) {
    return StopSignals::requested() && (exit_code == kExitResumable || exit_code == 128 + SIGTERM);
  }

  void reap(ProgressLine& progress) {
    for (auto run = running_.begin(); run != running_.end();) {
      const auto exit_code = run->child->poll();
      if (!exit_code) {
        ++run;
        continue;
      }
      const Cell& cell = *run->cell;
      settle_config(*run);
      if (*exit_code == 0) {
        finished_.insert(&cell);
        progress.ends(cell, true);
        progress.note(fmt::format("finished  {}: {}", cell.name, one_line_result(cell_folder(cell))));
      } else if (!was_stopped(*exit_code)) {
        fails(cell, last_error(cell_log_path(cell), run->log_begin, *exit_code), *exit_code);
        progress.ends(cell, false);
        progress.note(fmt::format("failed    {}: {}\n          log: {}", cell.name, failures_.back().second,
                                  cell_log_path(cell).string()));
      }
      run = running_.erase(run);
    }
  }

  void report(ProgressLine& progress) {
    if (finished_.empty()) return;
    if (!failures_.empty()) write_sweep_file();
    progress.note(write_sweep_report(sweep_.out));
    progress.note(fmt::format("results   {}", (sweep_.out / "results.md").string()));
    progress.note(fmt::format("page      {}", (sweep_.out / "report.html").string()));
    if (!failures_.empty())
      progress.note(fmt::format("{} of {} cells failed; the same command tries them again", failures_.size(),
                                sweep_.cells.size()));
  }

  std::string stopped_text() const {
    return fmt::format("stopped by a signal; the same command goes on: {} of {} cells are finished",
                       finished_.size(), sweep_.cells.size());
  }

  AblateRequest request_;
  Sweep& sweep_;
  FolderLock lock_;
  int threads_;
  Json probes_ = Json::object(), alone_ = Json::object();  // of variants; of cells
  std::set<std::string> beside_;                           // names of cells that ran beside others
  std::set<const Cell*> finished_, anew_;
  std::vector<const Cell*> queue_;
  std::vector<Running> running_;
  std::vector<std::pair<const Cell*, std::string>> failures_;
  int exit_code_ = 0;  // of the first failure
};

}  // namespace

std::string describe(const Sweep& sweep) {
  std::vector<std::pair<std::string, const Cell*>> rows;  // seeds have the same tiles
  std::size_t width = 7;
  for (const Cell& cell : sweep.cells) {
    const std::string variant = sweep.variant(cell);
    if (std::ranges::any_of(rows, [&](const auto& row) { return row.first == variant; })) continue;
    rows.emplace_back(variant, &cell);
    width = std::max(width, variant.size());
  }
  std::string text =
      fmt::format("{:<{}}  tiles per layer  of full attention's tiles  fitted\n", "variant", width);
  for (const auto& [variant, cell] : rows) {
    const Config& config = cell->config;
    const double tiles = tiles_per_layer(config);
    const std::int64_t side = (config.data.seq_len + config.tile - 1) / config.tile;
    const std::int64_t full = config.model.n_heads * full_cells(side, side, config.causal);
    const bool fitted = cell->fitted && !cell->fitted->parameter.empty();
    text += fmt::format("{:<{}}  {:>15.6g}  {:>25}  {}\n", variant, width, tiles,
                        percent_text(tiles / static_cast<double>(full)),
                        fitted ? fmt::format("{} {} (target {:.6g} tiles)", cell->fitted->parameter,
                                             cell->fitted->value, cell->fitted->target)
                               : "-");
  }
  return text;
}

int ablate(AblateRequest request) {
  fmt::print("sweep     {}: {} cells, {} at a time, in {}\n{}", request.sweep.name,
             request.sweep.cells.size(), request.jobs, request.sweep.out.string(), describe(request.sweep));
  std::fflush(stdout);
  if (request.dry_run) return 0;
  refuse_folder_in_data(request.sweep);
  refuse_idle_tokenizers(request.sweep);
  return Ablation(std::move(request)).run();
}

}  // namespace filigree
