// filigree export: a checkpoint as a folder that Hugging Face transformers loads.
#include "train/interchange/export.h"

#include "data/progress.h"
#include "train/commands/commands.h"

namespace filigree {
namespace {

struct ExportArguments {
  std::string model, output;
  DType dtype = DType::f32;
  bool overwrite = false;
};

void run(const ExportArguments& arguments) {
  std::optional<Progress> bar;
  const ExportResult result = export_model(
      arguments.model, arguments.output, arguments.dtype,
      [&](std::int64_t done, std::int64_t total) {
        if (!bar) bar.emplace("export", total, "B");
        bar->update(done);
      },
      arguments.overwrite);
  bar->finish();
  fmt::print("{}: {} with {} parameters in {}\n", arguments.output, architecture_class(result.architecture),
             result.parameters, arguments.dtype == DType::bf16 ? "bf16" : "fp32");
  if (!result.warning.empty()) {
    std::fflush(stdout);
    fmt::print(stderr, "filigree: warning: {}\n", result.warning);
  }
}

}  // namespace

void add_export(CLI::App& app, Invocation&) {
  auto* command =
      app.add_subcommand("export", "Write a checkpoint in the format of Hugging Face transformers");
  const auto arguments = std::make_shared<ExportArguments>();
  command->add_option("model", arguments->model, "Checkpoint file or run folder")
      ->required()
      ->transform(as_path_argument());
  command->add_option("-o,--output", arguments->output, "The folder to make")
      ->required()
      ->transform(as_path_argument())
      ->type_name("DIR");
  command->add_flag("--overwrite", arguments->overwrite, "Replace a folder that an export made");
  add_word_option(*command, "--dtype", "Of the weights", {"fp32", "bf16"}, "fp32",
                  [arguments](std::size_t i) { arguments->dtype = i == 0 ? DType::f32 : DType::bf16; });
  command->footer("Example:\n  filigree export runs/quickstart -o exported --dtype bf16");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace filigree
