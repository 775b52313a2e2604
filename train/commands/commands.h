// The subcommands: one file each, one line each in command_line.cpp.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "core/output_check.h"
#include "train/config/config.h"

namespace filigree {

// What a command knows of how it was started, and what it hands back.
struct Invocation {
  std::string command_line;  // as typed, for the run folder
  int exit_code = 0;
};

// An option that takes one of `words`; `chosen` is told which. Any other word is an Error(usage) that names
// the nearest of them.
void add_word_option(CLI::App& command, const std::string& name, const std::string& description,
                     const std::vector<std::string>& words, const std::string& default_word,
                     const std::function<void(std::size_t)>& chosen);

// For options and arguments that are paths: ~ is the home folder.
CLI::Validator as_path_argument();

// --overwrite, the same on every command that writes files by name.
void add_overwrite_flag(CLI::App& command, bool& overwrite);

// These tell an OutputCheck what is read: all files that a config names, its data among them; files of data,
// folders and globs; the layout files that a pattern names; a config's file, with those that it extends.
void reads_config(OutputCheck& outputs, const Config& config);
void reads_data(OutputCheck& outputs, const std::vector<std::string>& inputs);
void reads_pattern(OutputCheck& outputs, const PatternSpec& pattern);
void reads_config_file(OutputCheck& outputs, const std::filesystem::path& file);

// --device auto|cpu|cuda, for commands that use a trained model.
void add_device_option(CLI::App& command, DeviceChoice& device);

void add_prepare(CLI::App& app, Invocation& invocation);
void add_tokenizer(CLI::App& app, Invocation& invocation);
void add_train(CLI::App& app, Invocation& invocation);
void add_eval(CLI::App& app, Invocation& invocation);
void add_generate(CLI::App& app, Invocation& invocation);
void add_explain(CLI::App& app, Invocation& invocation);
void add_harden(CLI::App& app, Invocation& invocation);
void add_export(CLI::App& app, Invocation& invocation);
void add_import(CLI::App& app, Invocation& invocation);
void add_inspect(CLI::App& app, Invocation& invocation);
void add_ablate(CLI::App& app, Invocation& invocation);
void add_report(CLI::App& app, Invocation& invocation);
void add_bench(CLI::App& app, Invocation& invocation);
void add_doctor(CLI::App& app, Invocation& invocation);
void add_help(CLI::App& app, Invocation& invocation);

}  // namespace filigree
