#include "data/json_tree.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/check.h"

namespace filigree {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{256} << 20;
constexpr std::size_t kMaxDepth = 64;

// What nlohmann's parser calls for each piece of the text.
class TreeBuilder {
 public:
  TreeBuilder(JsonTree& root, const std::string& origin) : root_(root), origin_(origin) {}

  bool null() { return add(JsonTree::Kind::null, ""); }
  bool boolean(bool value) { return add(JsonTree::Kind::boolean, value ? "true" : "false"); }
  bool number_integer(std::int64_t value) { return add(JsonTree::Kind::number, fmt::format("{}", value)); }
  bool number_unsigned(std::uint64_t value) { return add(JsonTree::Kind::number, fmt::format("{}", value)); }
  bool number_float(double, const std::string& written) { return add(JsonTree::Kind::number, written); }
  bool string(std::string& value) { return add(JsonTree::Kind::string, std::move(value)); }
  bool binary(nlohmann::json::binary_t&) { return false; }  // not in text
  bool start_object(std::size_t) { return open(JsonTree::Kind::object); }
  bool start_array(std::size_t) { return open(JsonTree::Kind::array); }
  bool key(std::string& name) {
    open_.back()->keys.push_back(std::move(name));
    return true;
  }
  bool end_object() {
    refuse_duplicates(open_.back()->keys);
    open_.pop_back();
    return true;
  }
  bool end_array() {
    open_.pop_back();
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
    std::string what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, ..."
    if (const auto end = what.find("] "); end != std::string::npos) what.erase(0, end + 2);
    fail(ErrorKind::data, "{}: not valid JSON: {}", origin_, what);
  }

 private:
  JsonTree& place() {
    if (open_.empty()) return root_;
    return open_.back()->items.emplace_back();
  }
  bool add(JsonTree::Kind kind, std::string text) {
    JsonTree& node = place();
    node.kind = kind;
    node.text = std::move(text);
    return true;
  }
  bool open(JsonTree::Kind kind) {
    if (open_.size() == kMaxDepth)
      fail(ErrorKind::data, "{}: nested deeper than {} levels", origin_, kMaxDepth);
    JsonTree& node = place();
    node.kind = kind;
    open_.push_back(&node);  // stays where it is: its parent gets no other child before it is closed
    return true;
  }
  void refuse_duplicates(const std::vector<std::string>& keys) const {
    std::vector<std::string_view> sorted(keys.begin(), keys.end());
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end())
      fail(ErrorKind::data, "{}: the key {} comes twice", origin_, json_quoted(*twice));
  }

  JsonTree& root_;
  const std::string& origin_;
  std::vector<JsonTree*> open_;
};

void write(const JsonTree& tree, std::string& out) {
  using Kind = JsonTree::Kind;
  const auto write_items = [&](char begin, char end) {
    out.push_back(begin);
    for (std::size_t i = 0; i < tree.items.size(); ++i) {
      if (i > 0) out += ", ";
      if (tree.is(Kind::object)) out += json_quoted(tree.keys[i]) + ": ";
      write(tree.items[i], out);
    }
    out.push_back(end);
  };
  switch (tree.kind) {
    case Kind::null:
      out += "null";
      break;
    case Kind::boolean:
    case Kind::number:
      out += tree.text;
      break;
    case Kind::string:
      out += json_quoted(tree.text);
      break;
    case Kind::array:
      write_items('[', ']');
      break;
    case Kind::object:
      write_items('{', '}');
      break;
  }
}

}  // namespace

const JsonTree* JsonTree::find(std::string_view key) const {
  const auto found = std::find(keys.begin(), keys.end(), key);
  return found == keys.end() ? nullptr : &items[found - keys.begin()];
}

JsonTree parse_json(std::string_view text, const std::string& origin) {
  if (text.size() > kMaxBytes)
    fail(ErrorKind::data, "{}: {} bytes of JSON; at most {} are read", origin, text.size(), kMaxBytes);
  JsonTree root;
  TreeBuilder builder(root, origin);
  nlohmann::json::sax_parse(text, &builder);
  return root;
}

std::string json_quoted(std::string_view text) {
  // Plain ASCII, which nearly all of a vocabulary is, needs no escapes.
  const bool plain = std::all_of(text.begin(), text.end(),
                                 [](char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; });
  if (plain) return fmt::format("\"{}\"", text);
  return nlohmann::json(text).dump();
}

std::string to_json(const JsonTree& tree) {
  std::string text;
  write(tree, text);
  return text;
}

}  // namespace filigree
