// Strict YAML: a document as a plain tree that remembers where each value stands, and a reader of maps that
// refuses whatever nobody asked for. yaml-cpp is used in yaml.cpp only, and only to parse: numbers are ours
// (yaml-cpp reads 017 as 15), duplicate keys, aliases, merges and implicit types are errors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/check.h"

namespace filigree {

// Where a value stands. Lines and columns count from 1; line 0 means "made by the program".
struct Mark {
  std::string file;
  int line = 0;
  int column = 0;
  std::string str() const;  // "file:line:column"
};

struct YamlNode {
  enum class Kind { null, scalar, sequence, map };
  Kind kind = Kind::null;
  Mark mark;
  std::string scalar;                                  // Kind::scalar: the text
  bool quoted = false;                                 // Kind::scalar: written in quotes, so always a string
  std::vector<YamlNode> items;                         // Kind::sequence
  std::vector<std::pair<YamlNode, YamlNode>> entries;  // Kind::map, in the file's order; keys are scalars

  bool is_null() const { return kind == Kind::null; }
  bool is_scalar() const { return kind == Kind::scalar; }
  bool is_sequence() const { return kind == Kind::sequence; }
  bool is_map() const { return kind == Kind::map; }
  const YamlNode* find(std::string_view key) const;  // in a map; nullptr if absent
  YamlNode* find(std::string_view key);
  bool operator==(const YamlNode& other) const;  // written alike; marks do not count

  // Builders, for resolved configs.
  static YamlNode make_map();
  static YamlNode make_sequence();
  static YamlNode make(std::string_view text);  // a string; quoted on output where YAML needs it
  static YamlNode make(const char* text) { return make(std::string_view(text)); }
  static YamlNode make(bool value);
  static YamlNode make(std::int64_t value);
  static YamlNode make(int value) { return make(static_cast<std::int64_t>(value)); }
  static YamlNode make(double value);                   // shortest text that reads back to the same double
  YamlNode& add(std::string_view key, YamlNode value);  // appends to a map; returns *this
  YamlNode& set(std::string_view key, YamlNode value);  // replaces or appends; returns *this
};

// Parses one document. Throws Error(usage) with file:line:column on syntax errors, duplicate keys, aliases,
// anchors, tags, merges, non-scalar keys, several documents, depth above 32 or size above 1 MB.
YamlNode parse_yaml(std::string_view text, const std::string& name);
YamlNode parse_yaml_file(const std::filesystem::path& path);  // Error(usage) if it cannot be read

// Writes a tree as YAML that parse_yaml reads back to an equal tree. Short maps and sequences of scalars are
// written inline ({window: 64}).
std::string to_yaml(const YamlNode& node);
std::string one_line(const YamlNode& value);  // the same on one line

// Throws Error(usage): "file:line:column: message".
[[noreturn]] void fail_at(const Mark& mark, const std::string& message, const std::string& hint = "");

// Strict scalar readers; `what` names the value in messages, e.g. "train.lr".
std::int64_t as_integer(const YamlNode& node, std::string_view what, std::int64_t min, std::int64_t max);
double as_number(const YamlNode& node, std::string_view what, double min, double max);  // 1e-3, 0.1, 3
bool as_bool(const YamlNode& node, std::string_view what);                              // true or false only
std::string as_string(const YamlNode& node, std::string_view what);
std::string as_path(const YamlNode& node, std::string_view what);  // a text, through expand_home
// One of `choices`; the error lists them and suggests the nearest.
std::string as_choice(const YamlNode& node, std::string_view what, const std::vector<std::string>& choices);

// The digits of an integer: "42" of 42, "1000000" of 1e6, "1500" of 1.5e3. Empty where `text` is no integer
// in decimals; what it stands for may be larger than any integer type.
std::string whole_number(std::string_view text);

// The nearest of `known` to `word` by edit distance, or the one that other programs call `word` (gpu: cuda),
// or
// "" if there is none.
std::string nearest(std::string_view word, const std::vector<std::string>& known);

// Reads one map. Every key that the file holds must be asked for before done(), which throws for the first
// one that was not, with the nearest known key. `path` ("train") prefixes names in messages.
class MapReader {
 public:
  // `node` must be a map; null counts as an empty one. It must outlive the reader.
  MapReader(const YamlNode& node, std::string path);
  MapReader(YamlNode&&, std::string) = delete;

  bool has(std::string_view key) const;
  const YamlNode* find(std::string_view key);  // marks the key as known; nullptr if absent
  const YamlNode& at(std::string_view key);    // the same, but an error if absent
  const Mark& mark_of(std::string_view key);   // of its value, or of the map that lacks it
  // With a default: optional. Without: required.
  std::int64_t integer(std::string_view key, std::int64_t min, std::int64_t max);
  std::int64_t integer(std::string_view key, std::int64_t min, std::int64_t max, std::int64_t fallback);
  double number(std::string_view key, double min, double max);
  double number(std::string_view key, double min, double max, double fallback);
  bool boolean(std::string_view key, bool fallback);
  std::string string(std::string_view key);
  std::string string(std::string_view key, std::string_view fallback);
  std::string path(std::string_view key, std::string_view fallback);
  std::string choice(std::string_view key, const std::vector<std::string>& choices,
                     std::string_view fallback);
  // `elsewhere` are full names ("train.steps") that may be meant by a key that is unknown here.
  void done(const std::vector<std::string>& elsewhere = {}) const;
  // Where one of `keys` is needed and none is there: an error if one that is there looks like it.
  void refuse_misspelt(const std::vector<std::string>& keys) const;

  const YamlNode& node() const { return *node_; }
  std::string name(std::string_view key) const;  // "train.lr"
  const std::string& path() const { return path_; }

 private:
  const YamlNode* node_;
  std::string path_;
  std::vector<std::string> known_;
};

}  // namespace filigree
