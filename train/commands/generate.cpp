// filigree generate: text from a trained decoder.
#include "train/generate.h"

#include <cmath>
#include <cstdio>

#include "train/commands/commands.h"

namespace filigree {
namespace {

struct GenerateArguments {
  std::string model, prompt;
  DeviceChoice device = DeviceChoice::automatic;
  GenerateOptions options;
};

void run(const GenerateArguments& arguments) {
  require(std::isfinite(arguments.options.temperature), "--temperature must be a number");
  const LoadedModel loaded = load_model(arguments.model, arguments.device);
  const auto& tokenizer = loaded.tokenizer;
  if (!tokenizer)
    throw Error(ErrorKind::data, "this model was trained on .bin files, whose tokenizer is unknown",
                "prepare the text with filigree prepare to generate text");
  std::vector<std::uint32_t> encoded;
  if (const auto separator = tokenizer->separator()) encoded.push_back(*separator);
  tokenizer->encode(arguments.prompt, encoded);
  const auto print = [](const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  print(arguments.prompt);
  generate(loaded, {encoded.begin(), encoded.end()}, arguments.options, [&](std::int32_t id) {
    const auto token = static_cast<std::uint32_t>(id);
    if (token == tokenizer->separator()) return false;  // the document ends here
    print(tokenizer->decode(std::span(&token, 1)));
    return true;
  });
  print("\n");
}

}  // namespace

void add_generate(CLI::App& app, Invocation&) {
  auto* command = app.add_subcommand("generate", "Sample text from a trained decoder");
  const auto arguments = std::make_shared<GenerateArguments>();
  command->add_option("model", arguments->model, "Checkpoint file or run folder")->required();
  command->add_option("--prompt", arguments->prompt, "Text to go on from");
  command->add_option("--tokens", arguments->options.tokens, "Tokens to make at most")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_option("--temperature", arguments->options.temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--top-k", arguments->options.top_k, "Draw among the k likeliest; 0: among all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command->add_option("--seed", arguments->options.seed, "Of the draws")->capture_default_str();
  add_device_option(*command, arguments->device);
  command->footer("Example:\n  filigree generate runs/quickstart --prompt \"template <\" --tokens 200");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace filigree
