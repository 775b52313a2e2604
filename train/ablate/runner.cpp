#include "train/ablate/runner.h"

#include <signal.h>

#include <algorithm>
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
#include "train/ablate/sweep_file.h"
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

constexpr std::int64_t kTimedSteps = 8;

struct Running {
  const Cell* cell;
  std::unique_ptr<Child> child;
  std::string run_before;  // run.json of the run that it is to replace
};

std::string run_file_of(const Cell& cell) {
  const fs::path file = cell_folder(cell) / "run.json";
  return fs::exists(file) ? read_file(file) : "";
}

// Files that the sweep writes would be data of the cells that come later.
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

class Ablation {
 public:
  explicit Ablation(AblateRequest request)
      : request_(std::move(request)),
        sweep_(request_.sweep),
        lock_(sweep_.out, "sweep's folder", "--out"),
        threads_(std::max(1, total_threads() / request_.jobs)) {}

  int run() {
    const StopSignals signals;
    file_ = SweepFile::read(sweep_);
    if (sweep_.equal.rule == Fairness::time && !give_equal_time(sweep_, file_, threads_)) {
      StatusLine line;
      line.leave();  // after the ^C that the terminal printed
      line.note(stopped_text());
      return kExitResumable;
    }
    inspect();
    check_data();
    check_weights();
    file_.write(sweep_, failures_);
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

  // --- speeds ---

  // The speed of a cell that ran beside others is that of the company it had: each is timed again for a few
  // steps, alone. What learns its pattern has no such speed: its first steps are not like the others.
  void time_alone(ProgressLine& progress) {
    if (!request_.time_alone) return;
    std::vector<std::pair<const Cell*, Config>> untimed;
    for (const Cell& cell : sweep_.cells) {
      if (!finished_.contains(&cell) || !file_.beside.contains(cell.name) ||
          layer_patterns(cell.config)->learns())
        continue;
      Config probe = probe_config(cell, kTimedSteps);
      if (file_.alone.value(cell.name, Json::object()).value("config", "") != timing_hash(probe))
        untimed.emplace_back(&cell, std::move(probe));
    }
    if (untimed.empty() || StopSignals::requested()) return;
    progress.note(fmt::format("timing    {} cells, each alone for {} steps, since they ran beside others",
                              untimed.size(), kTimedSteps));
    for (const auto& [cell, probe] : untimed) {
      try {
        const auto seconds = probe_seconds(*cell, probe, threads_);
        if (!seconds) return progress.interrupted();
        file_.alone[cell->name] = {{"step_seconds", *seconds}, {"config", timing_hash(probe)}};
        file_.write(sweep_, failures_);
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

  // Cells that are trained now will be compared with the finished cells, so it must be on the same data.
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
    if (anew || !fs::exists(cell_folder(cell) / "run.json")) file_.beside.erase(cell.name);
    running_.push_back(
        {&cell, std::make_unique<Child>(std::move(arguments), log), anew ? run_file_of(cell) : ""});
    progress.starts(cell);
    if (running_.size() > 1)
      for (const Running& run : running_) file_.beside.insert(run.cell->name);
    file_.write(sweep_, failures_);
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
        fails(cell, last_error(cell_log_path(cell), run->child->log_begin(), *exit_code), *exit_code);
        progress.ends(cell, false);
        progress.note(fmt::format("failed    {}: {}\n          log: {}", cell.name, failures_.back().second,
                                  cell_log_path(cell).string()));
      }
      run = running_.erase(run);
    }
  }

  void report(ProgressLine& progress) {
    if (finished_.empty()) return;
    if (!failures_.empty()) file_.write(sweep_, failures_);
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
  SweepFile file_;
  std::set<const Cell*> finished_, anew_;
  std::vector<const Cell*> queue_;
  std::vector<Running> running_;
  Failures failures_;
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
