#include "data/tasks/registry.h"

namespace filigree {

const std::vector<TaskEntry>& task_registry() {
  static const std::vector<TaskEntry> entries = {
      {"planted", "the token at a known offset, strided place or sink, as each token asks",
       make_planted_task},
      {"mqar", "the value that a key was paired with (multi-query associative recall)", make_mqar_task},
      {"selective_copy", "the tokens that stood among noise, in their order", make_selective_copy_task},
      {"induction", "the token that followed the special token", make_induction_task},
      {"listops", "the value of a nested expression of MIN, MAX, MED and SM", make_listops_task},
      {"pathfinder", "whether two markers stand at the ends of one dashed contour", make_pathfinder_task},
      {"passkey", "the digits that a needle in a haystack gives for a name", make_passkey_task},
  };
  return entries;
}

namespace {

constexpr std::int64_t kMaxSamples = std::int64_t{1} << 40;

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const TaskEntry& entry : task_registry()) names.emplace_back(entry.name);
  return names;
}

const TaskEntry& find_task(const YamlNode& key) {
  for (const TaskEntry& entry : task_registry())
    if (entry.name == key.scalar) return entry;
  const std::string near = nearest(key.scalar, task_names());
  fail_at(key.mark, fmt::format("unknown task '{}'", key.scalar),
          near.empty() ? fmt::format("known tasks: {}", fmt::join(task_names(), ", "))
                       : fmt::format("did you mean '{}'?", near));
}

}  // namespace

GeneratedData read_task(const YamlNode& node, std::int64_t seq_len, const std::string& path) {
  const bool named = node.is_map() && node.entries.size() == 1;
  if (!named && !node.is_scalar())
    fail_at(node.mark, fmt::format("{} is a map with one key, the task's name", path),
            "for example {mqar: {pairs: 8}}");
  const YamlNode& key = named ? node.entries.front().first : node;
  YamlNode empty = YamlNode::make_map();
  empty.mark = node.mark;
  const TaskEntry& entry = find_task(key);
  MapReader reader(named ? node.entries.front().second : empty, fmt::format("{}.{}", path, entry.name));
  GeneratedData data;
  data.samples = reader.integer("samples", 1, kMaxSamples, data.samples);
  data.val_samples = reader.integer("val_samples", 0, kMaxSamples, data.val_samples);
  data.fresh = reader.boolean("fresh", data.fresh);
  data.task = entry.make(reader, seq_len);
  reader.done();
  return data;
}

YamlNode GeneratedData::to_yaml() const {
  YamlNode body = task->parameters();
  body.add("samples", YamlNode::make(samples));
  body.add("val_samples", YamlNode::make(val_samples));
  body.add("fresh", YamlNode::make(fresh));
  YamlNode node = YamlNode::make_map();
  node.add(task->name(), std::move(body));
  return node;
}

bool GeneratedData::operator==(const GeneratedData& other) const {
  return filigree::to_yaml(to_yaml()) == filigree::to_yaml(other.to_yaml());
}

}  // namespace filigree
