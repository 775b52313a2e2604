// filigree ablate: many runs from one YAML file.
#include "train/ablate/runner.h"
#include "train/commands/commands.h"

namespace filigree {
namespace {

struct AblateArguments {
  std::string sweep, out;
  std::vector<std::string> overrides;
  AblateRequest request;
};

}  // namespace

void add_ablate(CLI::App& app, Invocation& invocation) {
  auto* command = app.add_subcommand("ablate", "Train every cell of a sweep and compare them on one page");
  const auto arguments = std::make_shared<AblateArguments>();
  command->add_option("sweep", arguments->sweep, "YAML file with base, axes and equal")
      ->required()
      ->transform(as_path_argument());
  command->add_option("overrides", arguments->overrides, "key=value for the base, e.g. train.steps=200");
  command
      ->add_option("--jobs", arguments->request.jobs, "Cells at a time; the threads are divided among them")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--out", arguments->out, "Folder of the sweep (default: its `out`)")
      ->transform(as_path_argument());
  command->add_flag("--overwrite", arguments->request.overwrite,
                    "Train cells anew that are damaged or had another config; the others are kept");
  command->add_flag(
      "!--no-timing", arguments->request.time_alone,
      "Do not time cells alone, for a few steps, that ran beside others: speeds are not ranked then");
  command->add_flag("--dry-run", arguments->request.dry_run, "Show the cells and their tiles, write nothing");
  command->footer("Example:\n  filigree ablate configs/ablations/small.yaml --jobs 2");
  command->callback([arguments, &invocation] {
    arguments->request.sweep = load_sweep(arguments->sweep, arguments->overrides, arguments->out);
    invocation.exit_code = ablate(std::move(arguments->request));
  });
}

}  // namespace filigree
