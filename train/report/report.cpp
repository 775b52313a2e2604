#include "train/report/report.h"

#include "core/file.h"
#include "data/progress.h"
#include "train/report/html.h"
#include "train/report/tables.h"

namespace filigree {

std::string write_sweep_report(const std::filesystem::path& sweep_folder) {
  const Collection collection = collect({sweep_folder});
  const Analysis analysis = analyse(collection);
  write_file_atomically(sweep_folder / "results.csv", results_csv(collection, analysis));
  write_file_atomically(sweep_folder / "results.json", results_json(collection, analysis));
  write_file_atomically(sweep_folder / "results.md", results_markdown(collection, analysis));
  write_file_atomically(sweep_folder / "report.html", report_html(collection, analysis));
  return printed_findings(analysis);
}

std::string write_report(const Collection& collection, const std::filesystem::path& page) {
  const Analysis analysis = analyse(collection);
  write_file_atomically(page, report_html(collection, analysis));
  return printed_findings(analysis);
}

std::string one_line_result(const std::filesystem::path& run_folder) {
  Collection one;
  one.runs.push_back(read_run(run_folder));
  const Analysis analysis = analyse(one);
  const Variant& v = analysis.settings.front().variants.front();
  return fmt::format("{} {}, {} tokens/s, peak {}, {}", analysis.metric.text(v.interval.mean),
                     analysis.metric.name, human_count(v.cost.tokens_per_second),
                     memory_text(v.cost.peak_bytes), human_duration(v.cost.train_seconds));
}

}  // namespace filigree
