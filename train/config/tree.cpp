#include "train/config/tree.h"

#include <algorithm>
#include <map>

#include "train/config/config.h"

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

// Lays a tree onto everything that it extends. `chain` holds the files being read, for cycles.
YamlNode resolve_extends(YamlNode tree, const std::filesystem::path& path,
                         std::vector<std::filesystem::path>& chain) {
  if (tree.is_null()) tree.kind = YamlNode::Kind::map;
  if (!tree.is_map()) fail_at(tree.mark, "a config is a map of 'key: value' lines");
  const auto extends = std::find_if(tree.entries.begin(), tree.entries.end(),
                                    [](const auto& entry) { return entry.first.scalar == "extends"; });
  if (extends == tree.entries.end()) return tree;

  const YamlNode node = extends->second;
  tree.entries.erase(extends);
  const std::filesystem::path base_path = path.parent_path() / as_path(node, "extends");
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
  YamlNode base = resolve_extends(parse_yaml_file(base_path), base_path, chain);
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

// "a.b=value" with the value as YAML. Marks say which override a value came from.
std::pair<std::string, YamlNode> read_override(const std::string& text) {
  const Mark mark{fmt::format("command line override '{}'", text), 0, 0};
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    std::error_code ignored;
    if (std::filesystem::exists(text, ignored))
      fail_at(mark, "a file where an override, key=value, was expected",
              "where the shell made several words of a glob, quote it: 'data.train=\"*.txt\"'");
    fail_at(mark, "an override is written key=value", "for example train.steps=200");
  }
  if (text.find_first_of("*&", equals) == equals + 1)
    fail_at(mark, fmt::format("a value that begins with {} has to be quoted", text[equals + 1]),
            fmt::format("write '{}=\"{}\"', in both kinds of quotes", text.substr(0, equals),
                        text.substr(equals + 1)));
  YamlNode value;
  try {
    value = parse_yaml(std::string_view(text).substr(equals + 1), mark.file);
  } catch (const Error& e) {
    if (!e.hint().starts_with("add the missing")) throw;
    throw Error(e.kind(), e.what(), e.hint() + "; in quotes, or the shell cuts it at spaces");
  }
  if (text.find_first_not_of(" \t", equals + 1) == std::string::npos)
    fail_at(mark, "the value is missing", "write key=null to remove an inherited key");
  set_marks(value, mark);
  return {text.substr(0, equals), std::move(value)};
}

// One line for a value, cut if long.
std::string brief(const YamlNode* node) {
  if (node == nullptr) return "-";
  const std::string text = one_line(*node);
  return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

void add_differences(const YamlNode* a, const YamlNode* b, const std::string& path,
                     std::vector<std::string>& out) {
  if (a != nullptr && b != nullptr && *a == *b) return;
  const bool maps = a != nullptr && b != nullptr && a->is_map() && b->is_map();
  if (!maps || path == "pattern") {
    out.push_back(fmt::format("{}: {} / {}", path, brief(a), brief(b)));
    return;
  }
  const std::string prefix = path.empty() ? "" : path + ".";
  for (const auto& [key, value] : a->entries)
    add_differences(&value, b->find(key.scalar), prefix + key.scalar, out);
  for (const auto& [key, value] : b->entries)
    if (a->find(key.scalar) == nullptr) add_differences(nullptr, &value, prefix + key.scalar, out);
}

}  // namespace

std::string plain_words(const YamlNode& value) {
  std::string text = value.scalar;
  const auto add = [&](const std::string& words) {
    if (!words.empty()) text += (text.empty() ? "" : " ") + words;
  };
  for (const YamlNode& item : value.items) add(plain_words(item));
  for (const auto& [key, entry] : value.entries) {
    add(key.scalar);
    add(plain_words(entry));
  }
  return text;
}

YamlNode load_config_tree(YamlNode tree, const std::filesystem::path& path) {
  std::vector<std::filesystem::path> chain;
  return resolve_extends(std::move(tree), path, chain);
}

void set_config_key(YamlNode& tree, const std::string& key, YamlNode value, const Mark& mark) {
  const std::vector<std::string> parts = split_path(key);
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
    map.mark = map.entries.front().first.mark = mark;
    value = std::move(map);
  }
  merge(*target, value, depth == 0);
}

void apply_override(YamlNode& tree, const std::string& text) {
  auto [key, value] = read_override(text);
  const Mark mark = value.mark;
  set_config_key(tree, key, std::move(value), mark);
}

void apply_overrides(YamlNode& tree, const std::vector<std::string>& texts) {
  std::map<std::string, std::string> files;  // by key
  for (const std::string& text : texts) {
    apply_override(tree, text);
    const std::string key = text.substr(0, text.find('=')), value = text.substr(key.size() + 1);
    if (key != "data.train" && key != "data.val") continue;
    const auto [earlier, is_new] = files.emplace(key, value);
    if (!is_new)  // the last one of any other key counts, but a shell's {a,b} does not mean that
      fail_at({fmt::format("command line override '{}'", text), 0, 0},
              fmt::format("{} is already set to {}", key, earlier->second),
              fmt::format("several files are one list: '{}=[{}, {}]'", key, earlier->second, value));
  }
}

Config load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  YamlNode tree = parse_yaml_file(path);
  if (tree.find("axes"))
    throw Error(ErrorKind::usage,
                fmt::format("{}: is a sweep of many runs, not the config of one", path.string()),
                fmt::format("filigree ablate {} trains its cells", path.string()));
  tree = load_config_tree(std::move(tree), path);
  apply_overrides(tree, overrides);
  return parse_config(tree, path.stem().string());
}

std::vector<std::string> differences(const YamlNode& a, const YamlNode& b) {
  std::vector<std::string> out;
  add_differences(&a, &b, "", out);
  return out;
}

}  // namespace filigree
