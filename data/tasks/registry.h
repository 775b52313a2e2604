// How a task's YAML becomes a GeneratedTask. A task is one file, with a function make_<name>_task, and one
// line in registry.cpp.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/tasks/task.h"

namespace filigree {

struct TaskEntry {
  std::string_view name;
  std::string_view meaning;
  std::shared_ptr<GeneratedTask> (*make)();
};

const std::vector<TaskEntry>& task_registry();

// The content of `data.task`: {NAME: {parameters of the task, samples, val_samples, fresh}}.
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

std::shared_ptr<GeneratedTask> make_planted_task();
std::shared_ptr<GeneratedTask> make_mqar_task();
std::shared_ptr<GeneratedTask> make_selective_copy_task();
std::shared_ptr<GeneratedTask> make_induction_task();
std::shared_ptr<GeneratedTask> make_listops_task();
std::shared_ptr<GeneratedTask> make_pathfinder_task();
std::shared_ptr<GeneratedTask> make_passkey_task();

}  // namespace filigree
