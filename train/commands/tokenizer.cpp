// filigree tokenizer: trains a byte-level BPE tokenizer.
#include "core/file.h"
#include "data/bpe_tokenizer.h"
#include "data/bpe_train.h"
#include "data/progress.h"
#include "train/commands/commands.h"

namespace filigree {
namespace {

struct TokenizerArguments {
  std::vector<std::string> inputs;
  std::string output;
  BpeTrainOptions options;
  bool overwrite = false;
};

// One progress bar after another.
class PhaseProgress {
 public:
  void update(const std::string& phase, std::int64_t done, std::int64_t total) {
    if (phase != phase_) {
      finish();
      phase_ = phase;
      bar_.emplace(phase, total, phase == "count" ? "B" : " tokens");
    }
    bar_->update(done);
  }
  void finish() {
    if (bar_) bar_->finish();
    bar_.reset();
  }

 private:
  std::string phase_;
  std::optional<Progress> bar_;
};

void run(TokenizerArguments arguments) {
  BpeTrainOptions& options = arguments.options;
  if (options.special.empty()) options.special = default_special_tokens(options.splitting);
  const Sources sources = find_sources(arguments.inputs);
  OutputCheck outputs(arguments.overwrite);
  for (const SourceFile& file : sources.files) outputs.reads(file.path);
  outputs.writes(arguments.output, "-o");
  PhaseProgress bar;
  BpeTrainResult result =
      train_bpe(sources, options, [&](const std::string& phase, std::int64_t done, std::int64_t total) {
        bar.update(phase, done, total);
      });
  bar.finish();
  const BpeTokenizer tokenizer(std::move(result.model));
  write_file_atomically(arguments.output, tokenizer.to_json());
  fmt::print("read {}: {} words, {} of them different\n", sources.describe(), result.n_words,
             result.n_distinct_words);
  if (tokenizer.vocab_size() < options.vocab_size)
    fmt::print("no further pair occurs {} times: the vocabulary ends early\n", options.min_count);
  fmt::print("{}: {} tokens, {}\n", arguments.output, tokenizer.vocab_size(), tokenizer.name());
  fmt::print("next: filigree prepare INPUT... -o tokens.h5 --tokenizer bpe:{}\n", arguments.output);
}

}  // namespace

void add_tokenizer(CLI::App& app, Invocation&) {
  auto* command = app.add_subcommand("tokenizer", "Train a byte-level BPE tokenizer on text");
  auto arguments = std::make_shared<TokenizerArguments>();
  command
      ->add_option("inputs", arguments->inputs,
                   "Files, folders (with all below) and globs; each file is a document")
      ->required()
      ->type_name("INPUT...");
  command->add_option("-o,--output", arguments->output, "The file to write, as HF `tokenizers` reads it")
      ->required()
      ->transform(as_path_argument())
      ->type_name("tokenizer.json");
  add_overwrite_flag(*command, arguments->overwrite);
  command
      ->add_option("--vocab", arguments->options.vocab_size, "Tokens, with the 256 bytes and special tokens")
      ->capture_default_str();
  add_word_option(*command, "--style", "How text is cut into words", {"gpt2", "llama3"}, "gpt2",
                  [arguments](std::size_t i) {
                    arguments->options.splitting = i == 0 ? Splitting::gpt2 : Splitting::llama3;
                  });
  command
      ->add_option("--special", arguments->options.special,
                   "A special token, once for each; they get the first ids. Default: <|endoftext|> for gpt2, "
                   "<|begin_of_text|> and <|end_of_text|> for llama3")
      ->allow_extra_args(false)  // else CLI11 would take [MASK] for a list
      ->type_name("TOKEN");
  command->add_option("--min-count", arguments->options.min_count, "Merge no pair that occurs less often")
      ->capture_default_str();
  command->footer("Example:\n  filigree tokenizer /usr/include/c++ -o tokenizer.json --vocab 4096");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace filigree
