// From files to one tree: `extends` chains, then command-line overrides.
#include <algorithm>

#include "train/config.h"
#include "train/config_internal.h"

namespace filigree {
namespace {

constexpr std::size_t kMaxChain = 16;

using Entries = std::vector<std::pair<YamlNode, YamlNode>>;

// Lays `over` onto `base`: maps merge, all else, a pattern and data.task replace, null removes what `base`
// had.
void merge(YamlNode& base, const YamlNode& over, bool is_root) {
  for (const auto& [key, value] : over.entries) {
    const auto old = std::find_if(base.entries.begin(), base.entries.end(),
                                  [&](const auto& entry) { return entry.first.scalar == key.scalar; });
    const bool replaced_whole = is_root ? key.scalar == "pattern" : key.scalar == "task";
    if (old == base.entries.end()) {
      base.entries.emplace_back(key, value);
    } else if (value.is_null()) {
      base.entries.erase(old);
    } else if (old->second.is_map() && value.is_map() && !replaced_whole) {
      merge(old->second, value, false);
    } else {
      *old = {key, value};
    }
  }
}

// Reads a file and everything that it extends. `chain` holds the files being read, for cycles.
YamlNode load_tree(const std::filesystem::path& path, std::vector<std::filesystem::path>& chain) {
  YamlNode tree = parse_yaml_file(path);
  if (tree.is_null()) tree.kind = YamlNode::Kind::map;
  if (!tree.is_map()) fail_at(tree.mark, "a config is a map of 'key: value' lines");
  const auto extends = std::find_if(tree.entries.begin(), tree.entries.end(),
                                    [](const auto& entry) { return entry.first.scalar == "extends"; });
  if (extends == tree.entries.end()) return tree;

  const YamlNode node = extends->second;
  tree.entries.erase(extends);
  const std::filesystem::path base_path = path.parent_path() / as_string(node, "extends");
  chain.push_back(std::filesystem::weakly_canonical(path));
  if (std::find(chain.begin(), chain.end(), std::filesystem::weakly_canonical(base_path)) != chain.end())
    fail_at(node.mark, fmt::format("extends: {} comes back to a file that is being read", node.scalar),
            "a config cannot extend itself");
  if (chain.size() > kMaxChain)
    fail_at(node.mark, fmt::format("extends: a chain of more than {} files", kMaxChain));
  std::error_code missing;
  if (!std::filesystem::exists(base_path, missing))
    fail_at(node.mark, fmt::format("extends: {} does not exist", base_path.string()),
            "the path is relative to the file that names it");
  YamlNode base = load_tree(base_path, chain);
  merge(base, tree, true);
  base.mark = tree.mark;
  return base;
}

void set_marks(YamlNode& node, const Mark& mark) {
  node.mark = mark;
  for (YamlNode& item : node.items) set_marks(item, mark);
  for (auto& [key, value] : node.entries) {
    set_marks(key, mark);
    set_marks(value, mark);
  }
}

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> parts;
  for (;;) {
    const std::size_t dot = path.find('.');
    parts.emplace_back(path.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    path.remove_prefix(dot + 1);
  }
}

// Sets one "a.b=value" in the tree. Marks say which override a value came from.
void apply_override(YamlNode& tree, const std::string& text) {
  const Mark mark{fmt::format("command line override '{}'", text), 0, 0};
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    fail_at(mark, "an override is written key=value", "for example train.steps=200");
  const std::vector<std::string> parts = split_path(std::string_view(text).substr(0, equals));
  YamlNode value = parse_yaml(std::string_view(text).substr(equals + 1), mark.file);
  if (text.find_first_not_of(" \t", equals + 1) == std::string::npos)
    fail_at(mark, "the value is missing", "write key=null to remove an inherited key");
  set_marks(value, mark);

  // Within a pattern a key is set where it stands; merging would only replace the whole pattern.
  YamlNode* target = &tree;
  std::size_t depth = 0;
  for (; depth + 1 < parts.size(); ++depth) {
    YamlNode* next = target->find(parts[depth]);
    if (next == nullptr) break;
    if (next->is_null()) next->kind = YamlNode::Kind::map;
    if (!next->is_map())
      fail_at(mark, fmt::format("'{}' is {} and has no keys", parts[depth],
                                next->is_scalar() ? "a value" : "a list"));
    target = next;
  }
  for (std::size_t i = parts.size(); i-- > depth;) {
    if (parts[i].empty()) fail_at(mark, "a key is empty", "for example train.steps=200");
    YamlNode map = YamlNode::make_map();
    map.add(parts[i], std::move(value));
    value = std::move(map);
    set_marks(value, mark);
  }
  merge(*target, value, depth == 0);
}

}  // namespace

Config load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  std::vector<std::filesystem::path> chain;
  YamlNode tree = load_tree(path, chain);
  for (const std::string& text : overrides) apply_override(tree, text);
  return parse_config(tree, path.stem().string());
}

std::optional<PatternFile> load_pattern_file(const std::filesystem::path& path) {
  const YamlNode tree = parse_yaml_file(path);
  for (const char* key : {"model", "data", "train", "extends"})
    if (tree.find(key) != nullptr) return std::nullopt;
  MapReader reader(tree, "");
  PatternFile file;
  file.pattern = reader.at("pattern");
  file.causal = reader.boolean("causal", file.causal);
  file.tile = read_tile(reader);
  reader.done();
  return file;
}

}  // namespace filigree
