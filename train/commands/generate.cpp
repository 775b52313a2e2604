// filigree generate: text from a trained decoder, to the terminal or as JSON lines.
#include "train/generate/generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/utf8.h"
#include "train/commands/commands.h"
#include "train/generate/text_stream.h"

namespace filigree {
namespace {

struct GenerateArguments {
  std::string model, prompt, prompts_file, out;
  std::vector<std::string> stops;
  DeviceChoice device = DeviceChoice::automatic;
  bool no_cache = false, overwrite = false;
  GenerateOptions options;
};

void write_out(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// One prompt a line; the last line may end with a newline.
std::vector<std::string> read_prompts(const std::string& path) {
  const std::string text = read_file(path);
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    if (lines.back().ends_with('\r')) lines.back().pop_back();
    if (!is_utf8(lines.back()))
      throw Error(ErrorKind::data, fmt::format("{}:{}: the prompt is not UTF-8", path, lines.size()));
    begin = end + 1;
  }
  if (lines.empty())
    throw Error(ErrorKind::data, fmt::format("{}: holds no prompts", path), "write one prompt a line");
  return lines;
}

// One text as it grows.
struct Made {
  std::string text;
  std::int64_t tokens = 0;
  std::string finish = "length";  // "end": the model ended the document; "stop": a stop string
  bool done = false;
};

class GenerateCommand {
 public:
  explicit GenerateCommand(const GenerateArguments& arguments)
      : arguments_(arguments),
        loaded_(load_model(arguments.model, arguments.device)),
        tokenizer_(loaded_.tokenizer) {
    if (!tokenizer_ && loaded_.tokenizer_name.starts_with("task "))
      throw Error(ErrorKind::usage,
                  fmt::format("this model was trained on the {}, which has no text", loaded_.tokenizer_name),
                  "filigree eval tells how often its answers are right");
    if (!tokenizer_)
      throw Error(
          ErrorKind::data, "this model knows ids only, and no tokenizer that makes them text",
          "train on text or on token files of filigree prepare; import a model with its tokenizer.json");
    prompts_ =
        arguments.prompts_file.empty() ? std::vector{arguments.prompt} : read_prompts(arguments.prompts_file);
    for (const std::string& prompt : prompts_) {
      std::vector<std::uint32_t> ids;
      if (const auto separator = tokenizer_->separator()) ids.push_back(*separator);
      tokenizer_->encode(prompt, ids);
      encoded_.emplace_back(ids.begin(), ids.end());
    }
    made_.resize(prompts_.size());
    for (Made& made : made_)
      streams_.emplace_back(arguments.stops, [this, &made](const std::string& text) {
        made.text += text;
        if (to_terminal()) write_out(text);
      });
  }

  void run() {
    check_output();
    GenerateOptions options = arguments_.options;
    options.cache = !arguments_.no_cache;
    generation_length(loaded_, encoded_, options);  // its errors come before any text
    if (to_terminal()) write_out(prompts_[0]);
    const auto begin = std::chrono::steady_clock::now();
    generate(
        loaded_, encoded_, options,
        {[this](std::size_t i, std::int32_t id) { return use(i, id); }, [this](std::size_t i) { done(i); }});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (to_terminal()) write_out("\n");
    if (arguments_.out.empty()) return;
    write_file_atomically(arguments_.out, lines_);
    std::int64_t tokens = 0;
    for (const Made& made : made_) tokens += made.tokens;
    fmt::print("{}: {} texts of {} tokens together, {:.1f} tokens/s\n", arguments_.out, made_.size(), tokens,
               static_cast<double>(tokens) / seconds);
  }

 private:
  bool to_terminal() const { return arguments_.prompts_file.empty() && arguments_.out.empty(); }

  void check_output() const {
    if (arguments_.out.empty()) return;
    OutputCheck outputs(arguments_.overwrite);
    outputs.reads(loaded_.checkpoint);
    outputs.reads(arguments_.prompts_file);
    reads_config(outputs, loaded_.config);
    outputs.writes(arguments_.out, "-o");
  }

  bool use(std::size_t i, std::int32_t id) {
    Made& made = made_[i];
    const auto token = static_cast<std::uint32_t>(id);
    ++made.tokens;
    if (token == tokenizer_->separator() ||
        std::ranges::find(loaded_.end_tokens, token) != loaded_.end_tokens.end()) {
      made.finish = "end";
      return false;
    }
    if (streams_[i].push(tokenizer_->decode(std::span(&token, 1)))) return true;
    made.finish = "stop";
    return false;
  }

  // Lines leave in the order of the prompts.
  void done(std::size_t i) {
    streams_[i].finish();
    made_[i].done = true;
    if (to_terminal()) return;
    for (; next_line_ < made_.size() && made_[next_line_].done; ++next_line_) {
      const Made& made = made_[next_line_];
      const std::string line = nlohmann::ordered_json{{"prompt", prompts_[next_line_]},
                                                      {"text", made.text},
                                                      {"tokens", made.tokens},
                                                      {"finish", made.finish}}
                                   .dump() +
                               "\n";
      if (arguments_.out.empty()) write_out(line);
      lines_ += line;
    }
  }

  const GenerateArguments& arguments_;
  LoadedModel loaded_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<std::string> prompts_;
  std::vector<std::vector<std::int32_t>> encoded_;
  std::vector<Made> made_;
  std::vector<TextStream> streams_;
  std::size_t next_line_ = 0;
  std::string lines_;
};

void check_arguments(const GenerateArguments& arguments) {
  const SamplingOptions& sampling = arguments.options.sampling;
  for (const double value :
       {sampling.temperature, sampling.top_p, sampling.min_p, sampling.repetition_penalty})
    require(std::isfinite(value), "--temperature, --top-p, --min-p and --repetition-penalty must be numbers");
  require(sampling.top_p > 0, "--top-p is {}; it must be above 0 and at most 1", sampling.top_p);
  require(sampling.repetition_penalty > 0, "--repetition-penalty is {}; it must be above 0",
          sampling.repetition_penalty);
  for (const std::string& stop : arguments.stops) {
    require(!stop.empty(), "--stop: a stop string is empty");
    require(is_utf8(stop), "--stop: a stop string is not UTF-8");
  }
  require(is_utf8(arguments.prompt), "--prompt: is not UTF-8");
}

void add_sampling_options(CLI::App& command, SamplingOptions& sampling) {
  command.add_option("--temperature", sampling.temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--top-k", sampling.top_k, "Draw among the k likeliest; 0: among all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command
      .add_option("--top-p", sampling.top_p,
                  "Draw among the likeliest that have this probability together; 1: all")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command
      .add_option("--min-p", sampling.min_p,
                  "Draw among tokens with at least this share of the likeliest one's probability; 0: all")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", sampling.repetition_penalty,
                  "Divide the logits of tokens in the text by this (multiply negative ones); 1: off")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
}

}  // namespace

void add_generate(CLI::App& app, Invocation&) {
  auto* command = app.add_subcommand("generate", "Sample text from a trained decoder");
  const auto arguments = std::make_shared<GenerateArguments>();
  GenerateOptions& options = arguments->options;
  command->add_option("model", arguments->model, "Checkpoint file or run folder")
      ->required()
      ->transform(as_path_argument());
  auto* prompt = command->add_option("--prompt", arguments->prompt, "Text to go on from");
  command
      ->add_option("--prompts", arguments->prompts_file,
                   "File of prompts, one a line; gives a JSON line for each, in their order")
      ->transform(as_path_argument())
      ->excludes(prompt);
  command->add_option("-o,--out", arguments->out, "Write JSON lines to this file and no text to the terminal")
      ->transform(as_path_argument());
  add_overwrite_flag(*command, arguments->overwrite);
  command->add_option("--tokens", options.tokens, "Tokens to make at most")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  add_sampling_options(*command, options.sampling);
  command->add_option("--seed", options.seed, "Of the draws")->capture_default_str();
  command->add_option("--stop", arguments->stops, "End before this string; may be given several times")
      ->allow_extra_args(false);
  command
      ->add_option("--max-context", options.max_context,
                   "Tokens that the model sees at most; default: the length it was trained with. A longer "
                   "text keeps its newest half and goes on")
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--batch", options.batch, "Prompts of a file that are continued together")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_flag("--no-cache", arguments->no_cache,
                    "Compute the whole text anew for each token, as is always done on cuda");
  add_device_option(*command, arguments->device);
  command->footer("Example:\n  filigree generate runs/quickstart --prompt \"template <\" --tokens 200");
  command->callback([arguments] {
    check_arguments(*arguments);
    GenerateCommand(*arguments).run();
  });
}

}  // namespace filigree
