// Building trees and writing them as text. What is written plain is a small safe alphabet; everything else is
// double-quoted, so no rule of YAML about indicators, flow context or line folding is ever relied on.
#include <charconv>
#include <cmath>

#include "core/yaml.h"
#include "core/yaml_scalar.h"

namespace filigree {
namespace {

constexpr std::size_t kInlineColumns = 96;

bool is_alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// Text that means the same in block and flow context without quotes.
bool is_plain(std::string_view text) {
  if (text.empty() || text == "..." || text.size() > 256) return false;
  const char first = text[0];
  const bool signed_start = (first == '-' || first == '+') && text.size() > 1 &&
                            (is_alphanumeric(text[1]) || text[1] == '.' || text[1] == '_');
  if (!is_alphanumeric(first) && first != '_' && first != '/' && first != '.' && first != '~' &&
      !signed_start)
    return false;
  for (const char c : text)
    if (!is_alphanumeric(c) && std::string_view("_-+./~*=@").find(c) == std::string_view::npos) return false;
  return true;
}

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      out += '\\', out += c;
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (byte < 0x20 || byte == 0x7F)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out + '"';
}

std::string scalar_text(const YamlNode& node) {
  if (node.is_null()) return "null";
  return !node.quoted && is_plain(node.scalar) ? node.scalar : quote(node.scalar);
}

// The node on one line, or "" if that takes more than `room` columns.
std::string inline_text(const YamlNode& node, std::size_t room) {
  std::string out;
  if (node.is_sequence()) {
    out = "[";
    for (const YamlNode& item : node.items) {
      const std::string text = inline_text(item, room);
      if (text.empty() || out.size() + text.size() > room) return "";
      out += (out.size() > 1 ? ", " : "") + text;
    }
    out += "]";
  } else if (node.is_map()) {
    out = "{";
    for (const auto& [key, value] : node.entries) {
      const std::string text = inline_text(value, room);
      if (text.empty() || out.size() + text.size() > room) return "";
      out += fmt::format("{}{}: {}", out.size() > 1 ? ", " : "", scalar_text(key), text);
    }
    out += "}";
  } else {
    return scalar_text(node);
  }
  return out.size() <= room ? out : "";
}

void write_block(const YamlNode& node, std::size_t indent, std::string& out);

// Writes the value after "key:" or "-": on the same line if it fits, else as an indented block below.
void write_value(const YamlNode& node, std::size_t indent, std::string& out) {
  const std::size_t used = out.size() - (out.rfind('\n') + 1);  // rfind's npos + 1 is 0
  const std::string text = inline_text(node, kInlineColumns - std::min(used, kInlineColumns - 1));
  const bool empty = node.items.empty() && node.entries.empty();
  if (!text.empty() || node.is_scalar() || empty) {
    out += ' ' + (text.empty() ? std::string(node.is_map() ? "{}" : "[]") : text) + '\n';
  } else {
    out += '\n';
    write_block(node, indent + 2, out);
  }
}

void write_block(const YamlNode& node, std::size_t indent, std::string& out) {
  for (const YamlNode& item : node.items) {
    out += std::string(indent, ' ') + "-";
    write_value(item, indent, out);
  }
  for (const auto& [key, value] : node.entries) {
    out += std::string(indent, ' ') + scalar_text(key) + ":";
    write_value(value, indent, out);
  }
}

}  // namespace

std::string to_yaml(const YamlNode& node) {
  std::string out;
  if (node.items.empty() && node.entries.empty())
    out = inline_text(node, kInlineColumns) + '\n';
  else
    write_block(node, 0, out);
  return out;
}

std::string one_line(const YamlNode& value) {
  YamlNode wrapped = YamlNode::make_sequence();
  wrapped.items.push_back(value);
  std::string text = to_yaml(wrapped).substr(2);
  for (char& c : text)
    if (c == '\n') c = ' ';
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

bool YamlNode::operator==(const YamlNode& other) const {
  return kind == other.kind && scalar_text(*this) == scalar_text(other) && items == other.items &&
         entries == other.entries;
}

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const auto& [name, value] : entries)
    if (name.scalar == key) return &value;
  return nullptr;
}

YamlNode* YamlNode::find(std::string_view key) {
  return const_cast<YamlNode*>(static_cast<const YamlNode*>(this)->find(key));
}

YamlNode YamlNode::make_map() {
  YamlNode node;
  node.kind = Kind::map;
  return node;
}

YamlNode YamlNode::make_sequence() {
  YamlNode node;
  node.kind = Kind::sequence;
  return node;
}

YamlNode YamlNode::make(std::string_view text) {
  YamlNode node;
  node.kind = Kind::scalar;
  node.scalar = text;
  node.quoted = !is_plain(text) || has_implicit_type(text);
  return node;
}

YamlNode YamlNode::make(bool value) {
  YamlNode node;
  node.kind = Kind::scalar;
  node.scalar = value ? "true" : "false";
  return node;
}

YamlNode YamlNode::make(std::int64_t value) {
  YamlNode node;
  node.kind = Kind::scalar;
  node.scalar = std::to_string(value);
  return node;
}

YamlNode YamlNode::make(double value) {
  check(std::isfinite(value), "a number in a config must be finite");
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  YamlNode node;
  node.kind = Kind::scalar;
  node.scalar.assign(buffer, end);
  return node;
}

YamlNode& YamlNode::add(std::string_view key, YamlNode value) {
  check(is_map() && find(key) == nullptr, "YamlNode::add needs a map without that key");
  entries.emplace_back(make(key), std::move(value));
  return *this;
}

YamlNode& YamlNode::set(std::string_view key, YamlNode value) {
  check(is_map(), "YamlNode::set needs a map");
  if (YamlNode* old = find(key))
    *old = std::move(value);
  else
    entries.emplace_back(make(key), std::move(value));
  return *this;
}

}  // namespace filigree
