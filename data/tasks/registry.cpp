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

constexpr double kMaxSamples = std::int64_t{1} << 40;

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

void fields(Fields& f, GeneratedTask& task, GeneratedData& data) {
  task.fields(f);
  f.integer("samples", data.samples, between(1, kMaxSamples), "size of an epoch", {.unit = "samples"});
  f.integer("val_samples", data.val_samples, between(0, kMaxSamples), "for validation; 0: none",
            {.unit = "samples"});
  f.boolean("fresh", data.fresh, "each epoch draws new samples; false: the same ones, reshuffled");
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
  MapReader map(named ? node.entries.front().second : empty, fmt::format("{}.{}", path, entry.name));
  const std::shared_ptr<GeneratedTask> task = entry.make();
  GeneratedData data{task};
  FieldReader reader(map);
  fields(reader, *task, data);
  reader.done();
  task->fit(map, seq_len);
  return data;
}

YamlNode GeneratedData::to_yaml() const {
  GeneratedData copy = *this;
  FieldPrinter body;
  fields(body, const_cast<GeneratedTask&>(*task), copy);  // printing changes nothing
  return YamlNode::make_map().add(task->name(), body.take());
}

bool GeneratedData::operator==(const GeneratedData& other) const {
  return to_yaml() == other.to_yaml();
}

}  // namespace filigree
