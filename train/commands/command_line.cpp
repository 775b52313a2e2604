// The frame of the command line: the list of commands, and errors to exit codes.
#include "train/commands/command_line.h"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <new>
#include <system_error>

#include "core/build_info.h"
#include "core/check.h"
#include "core/file.h"
#include "core/yaml.h"
#include "data/sources.h"
#include "train/commands/commands.h"
#include "train/config/config.h"

namespace filigree {
namespace {

int report(const char* message, const std::string& hint, int exit_code) {
  std::fflush(stdout);
  fmt::print(stderr, "filigree: {}\n", message);
  if (!hint.empty()) fmt::print(stderr, "  hint: {}\n", hint);
  return exit_code;
}

// CLI11 only says that a subcommand is required.
void refuse_unknown_command(const CLI::App& app, const std::string& word) {
  std::vector<std::string> known;
  for (const CLI::App* command : app.get_subcommands({})) known.push_back(command->get_name());
  if (word.starts_with('-') || std::ranges::count(known, word) > 0) return;
  const std::string near = nearest(word, known);
  throw Error(ErrorKind::usage, fmt::format("there is no command '{}'", word),
              near.empty() ? "filigree --help lists the commands" : fmt::format("did you mean '{}'?", near));
}

// Words that no option takes: CLI11 names them, but not what most often was meant.
std::string hint_for_extras(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  for (const std::string& word : words)
    if (word.starts_with('{') && std::ranges::count(word, '{') > std::ranges::count(word, '}'))
      return "quote a pattern, or the shell cuts it at spaces: '{local: {window: 64}}'";
  if (words[0] == "train" || words[0] == "ablate")
    return "keys of the config are written key=value, such as train.steps=200 or device=cpu";
  return "";
}

// Every option that takes an integer reads 1e6 as one, and says so where a number is too large to be one.
void read_whole_numbers(CLI::App& command) {
  const CLI::Validator whole(
      [](std::string& text) -> std::string {
        const std::string digits = whole_number(text);
        if (digits.empty()) return fmt::format("must be an integer, not '{}'", text);
        std::int64_t value = 0;
        if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc())
          return fmt::format("'{}' is too {}", text, digits.starts_with('-') ? "small" : "large");
        text = digits;
        return "";
      },
      "");
  for (CLI::Option* option : command.get_options())
    if (const std::string type = option->get_type_name(); type.starts_with("INT") || type.starts_with("UINT"))
      option->transform(whole);
  for (CLI::App* inner : command.get_subcommands({})) read_whole_numbers(*inner);
}

// Who closed the pipe wants no more of the output, and no message.
int output_failed(int error) {
  if (error == EPIPE) return 128 + SIGPIPE;
  return report(fmt::format("cannot write the output: {}", std::strerror(error)).c_str(), "",
                static_cast<int>(ErrorKind::disk));
}

}  // namespace

void add_word_option(CLI::App& command, const std::string& name, const std::string& description,
                     const std::vector<std::string>& words, const std::string& default_word,
                     const std::function<void(std::size_t)>& chosen) {
  const auto choose = [name, words, chosen](const std::string& word) {
    const auto found = std::ranges::find(words, word);
    if (found == words.end()) {
      const std::string near = nearest(word, words);
      throw Error(ErrorKind::usage,
                  fmt::format("{} must be one of {}, not '{}'", name, fmt::join(words, ", "), word),
                  near.empty() ? "" : fmt::format("did you mean '{}'?", near));
    }
    chosen(static_cast<std::size_t>(found - words.begin()));
  };
  command.add_option_function<std::string>(name, choose, description)
      ->type_name(fmt::format("{}", fmt::join(words, "|")))
      ->default_str(default_word);
}

CLI::Validator as_path_argument() {
  const auto expand = [](std::string& path) {
    path = expand_home(path);
    return std::string();
  };
  return CLI::Validator(expand, "");
}

void add_overwrite_flag(CLI::App& command, bool& overwrite) {
  command.add_flag("--overwrite", overwrite, "Replace files of these names that are there");
}

void reads_data(OutputCheck& outputs, const std::vector<std::string>& inputs) {
  for (const std::string& input : inputs) {
    try {
      for (const auto& path : expand_paths({input})) outputs.reads(path);
    } catch (const Error&) {
      continue;  // an input that is not there is not read
    }
  }
}

void reads_pattern(OutputCheck& outputs, const PatternSpec& pattern) {
  for (const auto& layout : named_layouts(pattern))
    if (layout.in_file) outputs.reads(layout.name);
}

void reads_config_file(OutputCheck& outputs, const std::filesystem::path& file) {
  outputs.reads(file);
  const YamlNode tree = parse_yaml_file(file);
  for (const auto& [key, value] : tree.entries)
    if (key.scalar == "extends") reads_config_file(outputs, file.parent_path() / as_path(value, "extends"));
}

void reads_config(OutputCheck& outputs, const Config& config) {
  reads_pattern(outputs, config.pattern);
  if (!config.train.init_from.empty()) outputs.reads(config.train.init_from);
  if (config.data.tokenizer.starts_with("bpe:")) outputs.reads(config.data.tokenizer.substr(4));
  reads_data(outputs, config.data.train);
  reads_data(outputs, config.data.val);
}

void add_device_option(CLI::App& command, DeviceChoice& device) {
  add_word_option(command, "--device", "auto: where it was trained", word_list(kWords<DeviceChoice>), "auto",
                  [&device](std::size_t i) { device = static_cast<DeviceChoice>(i); });
}

int run_command_line(int argc, char** argv) {
  clean_up_on_signals();
  Invocation invocation;
  for (int i = 0; i < argc; ++i) invocation.command_line += std::string(i ? " " : "") + argv[i];

  CLI::App app{"filigree trains long-sequence transformers with sparse attention", "filigree"};
  app.set_version_flag("--version",
                       fmt::format("filigree {}\ncommit {}\nbuild {}", version(), commit(), build()));
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::simple);
  add_prepare(app, invocation);
  add_tokenizer(app, invocation);
  add_train(app, invocation);
  add_eval(app, invocation);
  add_harden(app, invocation);
  add_generate(app, invocation);
  add_explain(app, invocation);
  add_export(app, invocation);
  add_import(app, invocation);
  add_inspect(app, invocation);
  add_ablate(app, invocation);
  add_report(app, invocation);
  add_bench(app, invocation);
  add_doctor(app, invocation);
  add_help(app, invocation);
  read_whole_numbers(app);

  try {
    if (argc > 1) refuse_unknown_command(app, argv[1]);
    app.parse(argc, argv);
    if (invocation.exit_code == 0 && (std::fflush(stdout) != 0 || std::ferror(stdout)))
      return output_failed(errno);
    return invocation.exit_code;
  } catch (const CLI::ExtrasError& e) {
    app.exit(e);
    if (const std::string hint = hint_for_extras(argc, argv); !hint.empty())
      fmt::print(stderr, "  hint: {}\n", hint);
    return static_cast<int>(ErrorKind::usage);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : static_cast<int>(ErrorKind::usage);
  } catch (const Error& e) {
    return report(e.what(), e.hint(), e.exit_code());
  } catch (const std::bad_alloc&) {
    return report("out of memory", "lower train.micro_batch_size or data.seq_len",
                  static_cast<int>(ErrorKind::out_of_memory));
  } catch (const std::system_error& e) {  // of fmt::print
    if (e.code().value() == EPIPE) return output_failed(EPIPE);
    return report(fmt::format("cannot write the output: {}", e.what()).c_str(), "",
                  static_cast<int>(ErrorKind::disk));
  } catch (const std::exception& e) {
    return report(e.what(), "this is a bug in filigree; please report it with the command and the config", 1);
  }
}

}  // namespace filigree
