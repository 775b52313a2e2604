// filigree import: a model in the format of Hugging Face transformers as a checkpoint.
#include "train/interchange/import.h"

#include "data/progress.h"
#include "train/commands/commands.h"
#include "train/interchange/layout_export.h"

namespace filigree {
namespace {

struct ImportArguments {
  std::string pattern;
  bool overwrite = false;
  ImportRequest request;
};

PatternFile pattern_argument(const std::string& text) {
  if (!std::filesystem::exists(text)) {
    PatternFile written;
    written.pattern = read_pattern(parse_yaml(text, "--pattern"));
    return written;
  }
  const auto file = load_pattern_file(text);
  require(file.has_value(), "{} is a whole config; --pattern takes a file that holds only `pattern:`", text);
  return *file;
}

void run(ImportArguments& arguments) {
  ImportRequest& request = arguments.request;
  OutputCheck outputs(arguments.overwrite);
  outputs.reads(request.folder);
  outputs.reads(arguments.pattern);
  if (!arguments.pattern.empty()) {
    OutputCheck(outputs).writes(request.output, "-o", true);  // before anything is read, and again after it
    request.pattern = pattern_argument(arguments.pattern);
    reads_pattern(outputs, request.pattern->pattern);
  }
  outputs.writes(request.output, "-o", true);
  std::optional<Progress> bar;
  const ImportResult result = import_model(request, [&](std::int64_t done, std::int64_t total) {
    if (!bar) bar.emplace("import", total, "");
    bar->update(done);
  });
  bar->finish();
  fmt::print("{}: {} with {} parameters, tokenizer {}\n", request.output.string(),
             architecture_class(result.architecture), result.parameters,
             result.tokenizer.empty() ? "unknown" : result.tokenizer);
  fmt::print("pattern   {} on {} tokens\n", pattern_text(result.config.pattern), result.config.data.seq_len);
  std::fflush(stdout);
  for (const std::string& note : result.notes) fmt::print(stderr, "filigree: warning: {}\n", note);
}

}  // namespace

void add_import(CLI::App& app, Invocation&) {
  auto* command =
      app.add_subcommand("import", "Read a GPT-2, Llama or Mistral model of Hugging Face transformers");
  const auto arguments = std::make_shared<ImportArguments>();
  command->add_option("folder", arguments->request.folder, "The model's folder")
      ->required()
      ->transform(as_path_argument())
      ->type_name("DIR");
  command->add_option("-o,--output", arguments->request.output, "The checkpoint to write")
      ->required()
      ->transform(as_path_argument())
      ->type_name("FILE.h5");
  add_overwrite_flag(*command, arguments->overwrite);
  command
      ->add_option("--pattern", arguments->pattern,
                   "YAML, or a file with `pattern:`; default: the attention that the model has")
      ->transform(as_path_argument());
  command
      ->add_option("--seq-len", arguments->request.seq_len,
                   "Tokens to evaluate at a time; default: at most 4096")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 28));
  command->footer(
      "Example:\n  filigree export runs/quickstart -o hf\n"
      "  filigree import hf -o imported.h5 --pattern '{local: {window: 64}}'");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace filigree
