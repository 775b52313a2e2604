#include "train/report/report.h"

#include "core/file.h"
#include "data/progress.h"
#include "train/report/figures.h"
#include "train/report/findings.h"
#include "train/report/tables.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;

void write_page(const Collection& collection, const Analysis& analysis, const fs::path& page) {
  const auto figures = report_figures(collection, analysis);
  if (const fs::path beside = figures_beside(page); !beside.empty())
    write_file_atomically(
        beside, figures.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n');
  write_file_atomically(page, report_page(figures));
}

}  // namespace

std::string write_sweep_report(const fs::path& sweep_folder) {
  const Collection collection = collect({sweep_folder});
  const Analysis analysis = analyse(collection);
  write_file_atomically(sweep_folder / "results.csv", results_csv(collection, analysis));
  write_file_atomically(sweep_folder / "results.json", results_json(collection, analysis));
  write_file_atomically(sweep_folder / "results.md", results_markdown(collection, analysis));
  write_page(collection, analysis, sweep_folder / "report.html");
  return printed_findings(analysis);
}

std::string write_report(const Collection& collection, const fs::path& page) {
  const Analysis analysis = analyse(collection);
  write_page(collection, analysis, page);
  return printed_findings(analysis);
}

fs::path figures_beside(fs::path page) {
  return is_stream(page) ? fs::path() : page.replace_extension(".json");
}

std::string one_line_result(const fs::path& run_folder) {
  Collection one;
  one.runs.push_back(read_run(run_folder));
  const Analysis analysis = analyse(one);
  const Variant& v = analysis.settings.front().variants.front();
  return fmt::format("{} {}, {} tokens/s, peak {}, {}", analysis.metric.text(v.interval.mean),
                     analysis.metric.name, human_count(v.cost.tokens_per_second),
                     memory_text(v.cost.peak_bytes), human_duration(v.cost.train_seconds));
}

}  // namespace filigree
