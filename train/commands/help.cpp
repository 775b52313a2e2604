// filigree help: the reference, by topic.
#include <algorithm>
#include <cstdio>

#include "train/commands/commands.h"
#include "train/help/topics.h"

namespace filigree {
namespace {

void list_topics() {
  fmt::print(
      "filigree help TOPIC prints one of these, filigree COMMAND --help the options of a command.\n\n");
  for (const HelpTopic& topic : help_topics()) fmt::print("  {:<13}{}\n", topic.name, topic.summary);
}

// A topic, or a command's options.
void print_help(const CLI::App& app, const std::string& word) {
  const std::vector<HelpTopic>& topics = help_topics();
  if (const auto topic = std::ranges::find(topics, word, &HelpTopic::name); topic != topics.end()) {
    fmt::print("{}", help_text(*topic));
    return;
  }
  std::vector<std::string> known;
  for (const HelpTopic& topic : topics) known.emplace_back(topic.name);
  for (const CLI::App* command : app.get_subcommands({})) {
    if (command->get_name() == word) return fmt::print("{}", command->help(app.get_name()));
    known.push_back(command->get_name());
  }
  const std::string near = nearest(word, known);
  throw Error(ErrorKind::usage, fmt::format("there is no help on '{}'", word),
              near.empty() ? "filigree help lists the topics" : fmt::format("did you mean '{}'?", near));
}

}  // namespace

void add_help(CLI::App& app, Invocation&) {
  auto* command = app.add_subcommand("help", "Print the reference: keys, patterns, tasks, files, exit codes");
  command->footer("Example:\n  filigree help layouts");
  auto topic = std::make_shared<std::string>();
  command->add_option("topic", *topic, "One of the topics, or a command");
  command->callback([&app, topic] { topic->empty() ? list_topics() : print_help(app, *topic); });
}

}  // namespace filigree
