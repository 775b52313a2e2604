// `filigree help` is complete: what the program writes, takes and returns is said there.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "attention/patterns.h"
#include "data/tasks/registry.h"
#include "tests/run_fixture.h"
#include "train/help/topics.h"

namespace filigree {
namespace {

using Json = nlohmann::json;

std::string topic(std::string_view name) {
  for (const HelpTopic& topic : help_topics())
    if (topic.name == name) return help_text(topic);
  ADD_FAILURE() << "there is no topic " << name;
  return "";
}

// Whether `word` stands in the text as a word of its own.
bool names(const std::string& text, const std::string& word) {
  const auto part = [&](std::size_t at) {
    return at < text.size() && (std::isalnum(static_cast<unsigned char>(text[at])) || text[at] == '_');
  };
  for (std::size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1))
    if (!part(at - 1) && !part(at + word.size())) return true;
  return false;
}

// All keys of an object and of what it holds, but those of values by name such as a task's groups.
void collect_keys(const Json& json, std::set<std::string>& keys) {
  if (json.is_array())
    for (const Json& item : json) collect_keys(item, keys);
  if (!json.is_object()) return;
  for (const auto& [key, value] : json.items()) {
    keys.insert(key);
    if (key != "val_accuracy_of" && key != "accuracy_of" && key != "libraries") collect_keys(value, keys);
  }
}

TEST(Help, EveryTopicHasASummaryAndItsTables) {
  ASSERT_GE(help_topics().size(), 10u);
  for (const HelpTopic& topic : help_topics()) {
    EXPECT_FALSE(topic.summary.empty()) << topic.name;
    const std::string text = help_text(topic);
    EXPECT_GT(text.size(), 100u) << topic.name;
    EXPECT_EQ(text.find("{{"), text.npos) << topic.name << " has a table that nobody makes";
  }
}

TEST(Help, NamesEveryPatternAndTask) {
  for (const std::string& pattern : pattern_names())
    EXPECT_TRUE(names(topic("patterns"), pattern)) << pattern;
  for (const TaskEntry& task : task_registry())
    EXPECT_TRUE(names(topic("tasks"), std::string(task.name))) << task.name;
}

TEST(Help, DescribesEverySettingOfAPatternOnShortLines) {
  const std::string text = topic("patterns");
  for (const PatternKind& kind : pattern_kinds()) {
    FieldList list;
    if (kind.fields) kind.fields(list);
    EXPECT_TRUE(kind.fields || !kind.example.empty())
        << kind.name << " shows neither settings nor an example";
    for (const Field& field : list.sections().front().fields) {
      EXPECT_FALSE(field.meaning.empty()) << kind.name << " " << field.key;
      EXPECT_TRUE(names(text, fmt::format("{}.{}", kind.name, field.key))) << kind.name << " " << field.key;
      EXPECT_NE(text.find(field.meaning.substr(0, 40)), text.npos) << kind.name << " " << field.key;
    }
  }
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 130u) << line;
}

TEST(Help, NamesEveryKeyOfAConfig) {
  const Json schema = Json::parse(topic("schema"));
  std::set<std::string> keys;
  for (const auto& [section, map] : schema["properties"].items()) {
    if (!map.contains("properties") && section != "extends") keys.insert(section);
    if (map.contains("properties"))
      for (const auto& [key, value] : map["properties"].items()) keys.insert(section + "." + key);
  }
  EXPECT_GT(keys.size(), 50u);
  for (const std::string& key : keys) EXPECT_TRUE(names(topic("config"), key)) << key;
}

TEST(Help, NamesEveryExitCode) {
  for (const ErrorKind kind :
       {ErrorKind::usage, ErrorKind::data, ErrorKind::numeric, ErrorKind::disk, ErrorKind::out_of_memory})
    EXPECT_TRUE(names(topic("exit-codes"), fmt::format("{}", static_cast<int>(kind))));
}

class HelpTest : public RunTest {};

TEST_F(HelpTest, NamesEveryFieldThatARunWrites) {
  write("learned.yaml", R"(
pattern: {learned_layout: {budget: 0.6}}
tile: 16
model: {dim: 16, n_layers: 1, n_heads: 2}
data:
  task: {passkey: {keys: 1, digits: 2, samples: 64, val_samples: 8}}
  seq_len: 96
train: {steps: 8, batch_size: 2, lr: 1.0e-2, eval_interval: 4, eval_lengths: [96], out: learned}
)");
  ASSERT_EQ(run({"train", "learned.yaml"}).exit_code, 0);
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=4"}).exit_code, 0);
  std::set<std::string> keys;
  for (const char* folder : {"learned", "full"}) {
    std::ifstream lines(path(folder) / "metrics.jsonl");
    for (std::string line; std::getline(lines, line);) collect_keys(Json::parse(line), keys);
    for (const char* file : {"summary.json", "run.json"}) {
      std::ifstream in(path(folder) / file);
      collect_keys(Json::parse(in), keys);
    }
  }
  EXPECT_TRUE(keys.contains("gate_histogram") && keys.contains("val_bits_per_byte"));
  for (const std::string& key : keys) EXPECT_TRUE(names(topic("metrics"), key)) << key;
}

TEST_F(HelpTest, IsPrintedByTopicAndByCommand) {
  const Outcome list = run({"help"});
  EXPECT_EQ(list.exit_code, 0);
  for (const HelpTopic& topic : help_topics())
    EXPECT_NE(list.output.find(fmt::format("  {} ", topic.name)), std::string::npos) << topic.name;
  EXPECT_EQ(run({"help", "metrics"}).output, topic("metrics"));
  EXPECT_EQ(run({"help", "train"}).output, run({"train", "--help"}).output);
  const Outcome unknown = run({"help", "metric"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_NE(unknown.output.find("did you mean 'metrics'?"), std::string::npos) << unknown.output;
}

}  // namespace
}  // namespace filigree
