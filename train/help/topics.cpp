#include "train/help/topics.h"

#include <memory>
#include <utility>

#include "attention/patterns.h"
#include "data/tasks/registry.h"
#include "train/config/reference.h"

namespace filigree {

// Made by CMake from the files in this folder: name and contents.
extern const std::vector<std::pair<std::string_view, std::string_view>> kHelpFiles;

namespace {

// The rule of every pattern, and its parameters with their defaults or an example.
std::string pattern_table() {
  std::string text;
  for (const PatternKind& kind : pattern_kinds()) {
    FieldList list;
    list.section(kind.name, kind.meaning, false, [&] {
      if (kind.fields) kind.fields(list);
    });
    text += reference_text(list);
    if (!kind.example.empty())
      text += fmt::format("{}    for example {}\n", kind.fields ? "\n" : "", kind.example);
  }
  return text.substr(1);  // without the blank line before the first
}

// The parameters of every task with their defaults.
std::string task_table() {
  FieldList list;
  std::vector<std::shared_ptr<GeneratedTask>> tasks;
  for (const TaskEntry& entry : task_registry()) {
    tasks.push_back(entry.make());
    list.section(entry.name, entry.meaning, false, [&] { tasks.back()->fields(list); });
  }
  return reference_text(list).substr(1);  // without the blank line before the first
}

struct Table {
  std::string_view name;
  std::string (*text)();
};
constexpr Table kTables[] = {{"config", config_reference},
                             {"schema", config_schema},
                             {"patterns", pattern_table},
                             {"tasks", task_table}};

}  // namespace

const std::vector<HelpTopic>& help_topics() {
  static const std::vector<HelpTopic> topics = [] {
    std::vector<HelpTopic> list;
    for (const auto& [name, text] : kHelpFiles) {
      const std::size_t end = text.find('\n');
      list.push_back({name, text.substr(2, end - 2), text.substr(end + 2)});
    }
    return list;
  }();
  return topics;
}

std::string help_text(const HelpTopic& topic) {
  std::string text(topic.text);
  for (const Table& table : kTables) {
    const std::string place = fmt::format("{{{{{}}}}}\n", table.name);
    if (const std::size_t at = text.find(place); at != text.npos)
      text.replace(at, place.size(), table.text());
  }
  return text;
}

}  // namespace filigree
