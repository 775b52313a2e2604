// The subcommands: one file each, one line each in command_line.cpp.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>

#include "train/config.h"

namespace filigree {

// What a command knows of how it was started, and what it hands back.
struct Invocation {
  std::string command_line;  // as typed, for the run folder
  int exit_code = 0;
};

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

}  // namespace filigree
