// filigree prepare: text to token files.
#include "data/prepare.h"

#include "data/progress.h"
#include "train/commands/commands.h"

namespace filigree {
namespace {

struct PrepareArguments {
  std::vector<std::string> inputs;
  std::string output;
  PrepareOptions options;
};

void describe(const std::filesystem::path& path, const TokenCounts& counts) {
  fmt::print("{}: {} tokens in {} documents ({} bytes of text)\n", path.string(), counts.n_tokens,
             counts.n_documents, counts.n_bytes);
}

void run(const PrepareArguments& arguments) {
  std::optional<Progress> bar;
  const PrepareResult result = prepare(arguments.inputs, arguments.output, arguments.options,
                                       [&](std::int64_t done, std::int64_t total) {
                                         if (!bar) bar.emplace("prepare", total, "B");
                                         bar->update(done);
                                       });
  bar->finish();
  fmt::print("read {}\n", result.sources.describe());
  describe(arguments.output, result.train);
  if (result.validation) describe(result.validation_path, *result.validation);
  fmt::print("next: filigree train CONFIG 'data.train=[{}]'{}\n", arguments.output,
             result.validation
                 ? fmt::format(" 'data.val=[{}]' data.val_fraction=null", result.validation_path.string())
                 : "");
}

}  // namespace

void add_prepare(CLI::App& app, Invocation&) {
  auto* command = app.add_subcommand("prepare", "Encode text into a token file, streaming");
  auto arguments = std::make_shared<PrepareArguments>();
  command
      ->add_option("inputs", arguments->inputs,
                   "Files, folders (with all below) and globs; each file is a document")
      ->required()
      ->type_name("INPUT...");
  command->add_option("-o,--output", arguments->output, "The token file to write")
      ->required()
      ->transform(as_path_argument())
      ->type_name("FILE.h5");
  arguments->options.overwrite = false;
  add_overwrite_flag(*command, arguments->options.overwrite);
  command->add_option("--tokenizer", arguments->options.tokenizer, "byte, or bpe:FILE for a tokenizer.json")
      ->capture_default_str();
  command
      ->add_option("--val", arguments->options.val_fraction,
                   "Part of the bytes, by whole files, that goes to FILE.val.h5")
      ->capture_default_str();
  command->add_option("--seed", arguments->options.seed, "Seed of that split")->capture_default_str();
  command->footer("Example:\n  filigree prepare /usr/include/c++ -o tokens.h5 --val 0.05");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace filigree
