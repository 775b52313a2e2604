// The same config for sequences of another length.
#include <algorithm>

#include "train/config/config.h"

namespace filigree {
namespace {

// The file that the nodes of a task would stand in, so that messages begin with the length.
void set_file(YamlNode& node, const std::string& file) {
  node.mark.file = file;
  for (auto& [key, value] : node.entries) {
    set_file(key, file);
    set_file(value, file);
  }
  for (YamlNode& item : node.items) set_file(item, file);
}

}  // namespace

Config at_length(const Config& config, std::int64_t seq_len) {
  const ModelConfig& model = config.model;
  require(model.positions != Positions::learned || seq_len <= model.max_seq_len,
          "at {} tokens: learned positions end at model.max_seq_len, {}", seq_len, model.max_seq_len);
  Config out = config;
  out.data.seq_len = seq_len;
  if (config.data.task) {
    YamlNode task = config.data.task->to_yaml();
    set_file(task, fmt::format("at {} tokens", seq_len));
    out.data.task = read_task(task, seq_len);
  }
  const std::int64_t tokens = config.train.micro_batch_size * config.data.seq_len;
  out.train.micro_batch_size = std::max<std::int64_t>(1, tokens / seq_len);
  validate_pattern(out);
  return out;
}

}  // namespace filigree
