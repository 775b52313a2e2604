// filigree report: one page about finished runs.
#include "train/report/report.h"

#include "train/commands/commands.h"

namespace filigree {

void add_report(CLI::App& app, Invocation&) {
  struct Arguments {
    std::vector<std::string> folders;
    std::string page = "report.html";
    bool overwrite = false;
  };
  auto* command = app.add_subcommand("report", "Compare finished runs on one page");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("runs", arguments->folders, "Run folders, or folders of filigree ablate")
      ->required()
      ->transform(as_path_argument())
      ->type_name("RUN...");
  command->add_option("-o,--output", arguments->page, "The page to write; its figures go beside it, as .json")
      ->transform(as_path_argument())
      ->type_name("FILE.html")
      ->capture_default_str();
  add_overwrite_flag(*command, arguments->overwrite);
  command->footer("Example:\n  filigree report runs/quickstart -o report.html");
  command->callback([arguments] {
    const Collection collection = collect({arguments->folders.begin(), arguments->folders.end()});
    OutputCheck outputs(arguments->overwrite);
    for (const RunData& run : collection.runs)
      if (run.problem.empty()) reads_config(outputs, run.config);
    outputs.writes(arguments->page, "-o");
    if (const auto beside = figures_beside(arguments->page); !beside.empty()) outputs.writes(beside, "-o");
    const std::string found = write_report(collection, arguments->page);
    fmt::print("{}\npage      {}\n", found, arguments->page);
  });
}

}  // namespace filigree
