// How a task's YAML becomes a GeneratedTask: one line in registry.cpp and one function, make_<name>_task,
// each.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/tasks/task.h"

namespace filigree {

struct TaskEntry {
  std::string_view name;
  std::string_view meaning;
  // Reads the task's own parameters; whatever else stands there is refused afterwards. Error(usage) at the
  // key to change, also where the task does not fit into seq_len.
  TaskPtr (*make)(MapReader& reader, std::int64_t seq_len);
};

const std::vector<TaskEntry>& task_registry();

// What `data.task` says: {NAME: {parameters of the task, samples, val_samples, fresh}}.
struct GeneratedData {
  TaskPtr task;
  std::int64_t samples = 100000;    // an epoch
  std::int64_t val_samples = 3000;  // 0: no validation
  bool fresh = true;                // each epoch draws new samples; false: the same ones, reshuffled

  YamlNode to_yaml() const;
  bool operator==(const GeneratedData& other) const;
};

// A name alone is the task with its defaults. `path` names the node in messages.
GeneratedData read_task(const YamlNode& node, std::int64_t seq_len, const std::string& path = "data.task");

TaskPtr make_planted_task(MapReader&, std::int64_t seq_len);
TaskPtr make_mqar_task(MapReader&, std::int64_t seq_len);
TaskPtr make_selective_copy_task(MapReader&, std::int64_t seq_len);
TaskPtr make_induction_task(MapReader&, std::int64_t seq_len);
TaskPtr make_listops_task(MapReader&, std::int64_t seq_len);
TaskPtr make_pathfinder_task(MapReader&, std::int64_t seq_len);
TaskPtr make_passkey_task(MapReader&, std::int64_t seq_len);

}  // namespace filigree
