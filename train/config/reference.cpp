#include "train/config/reference.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "attention/patterns.h"
#include "train/config/config.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;
using Type = Field::Type;

constexpr std::size_t kColumns = 110;

// Words in lines that begin with `indent` spaces.
std::string wrapped(std::string_view text, std::size_t indent) {
  std::string out, line;
  std::istringstream words{std::string(text)};
  for (std::string word; words >> word;) {
    if (!line.empty() && indent + line.size() + 1 + word.size() > kColumns) {
      out += std::string(indent, ' ') + std::exchange(line, "") + '\n';
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return out + std::string(indent, ' ') + line + '\n';
}

// "integer, at least 0 (steps)"
std::string type_text(const Field& field) {
  const char* const names[] = {"true or false",
                               "integer",
                               "number",
                               "one of the words below",
                               "text",
                               "list of integers",
                               "list of lists of integers",
                               "list of numbers",
                               "text or list of texts",
                               "map",
                               "list of maps"};
  std::string text = names[static_cast<std::size_t>(field.type)];
  if (const std::string range = range_text(field.range); !range.empty()) text += ", " + range;
  return field.notes.unit.empty() ? text : fmt::format("{} ({})", text, field.notes.unit);
}

std::string default_text(const Field& field) {
  if (!field.notes.default_text.empty()) return std::string(field.notes.default_text);
  if (field.required) return "required";
  const YamlNode value = field.print();
  return value.is_null() ? "none" : one_line(value);
}

std::string field_text(const std::string& name, const Field& field) {
  std::string text = fmt::format("{:<31} {:<27} {}\n", name, default_text(field), type_text(field));
  text += wrapped(field.meaning, 4);
  for (const Word& word : field.words) text += fmt::format("      {:<19} {}\n", word.word, word.meaning);
  if (!field.notes.use.where.empty()) text += wrapped("used " + field.notes.use.where, 4);
  return text;
}

Json number_schema(const char* type, const Range& range) {
  Json json = {{"type", type}};
  const auto set = [&](const char* key, double bound) {
    if (std::isinf(bound)) return;
    if (bound == std::floor(bound))
      json[key] = static_cast<std::int64_t>(bound);
    else
      json[key] = bound;
  };
  set(range.above_min ? "exclusiveMinimum" : "minimum", range.min);
  set(range.below_max ? "exclusiveMaximum" : "maximum", range.max);
  if (!range.among.empty()) json["enum"] = range.among;
  return json;
}

Json type_schema(const Field& field) {
  const auto list_of = [](Json items) { return Json{{"type", "array"}, {"items", std::move(items)}}; };
  const Json text = {{"type", "string"}};
  switch (field.type) {
    case Type::boolean:
      return {{"type", "boolean"}};
    case Type::integer:
      return number_schema("integer", field.range);
    case Type::number:
      return number_schema("number", field.range);
    case Type::word:
      return {{"enum", word_list(field.words)}};
    case Type::text:
      return text;
    case Type::integers:
      return list_of({{"type", "integer"}});
    case Type::integer_lists:
      return list_of(list_of({{"type", "integer"}}));
    case Type::numbers:
      return list_of({{"type", "number"}});
    case Type::texts:
      return {{"anyOf", Json::array({text, list_of(text)})}};
    case Type::maps:
      return list_of(Json::object());  // its section tells of the items
    case Type::map:
      return {{"type", Json::array({"object", "string"})}};  // a name alone has the default parameters
  }
  return Json::object();
}

Json json_value(const YamlNode& node, Type type) {
  Json list = Json::array();
  for (const YamlNode& item : node.items) list.push_back(json_value(item, type));
  if (node.is_sequence()) return list;
  const bool plain = type != Type::text && type != Type::texts && type != Type::word && type < Type::map;
  return plain ? Json::parse(node.scalar) : Json(node.scalar);
}

Json field_schema(const Field& field) {
  Json json = type_schema(field);
  const Notes& notes = field.notes;
  std::string description(field.meaning);
  if (!notes.unit.empty()) description += fmt::format(" ({})", notes.unit);
  for (const Word& word : field.words) description += fmt::format("\n{}: {}", word.word, word.meaning);
  if (!notes.use.where.empty()) description += fmt::format("\nUsed {}.", notes.use.where);
  if (!notes.default_text.empty()) description += fmt::format("\nDefault: {}.", notes.default_text);
  json["description"] = description;
  if (field.required || !notes.default_text.empty()) return json;
  if (const YamlNode value = field.print(); value.is_scalar() || value.is_sequence())
    json["default"] = json_value(value, field.type);
  return json;
}

Json map_schema(std::string_view description) {
  return {{"type", "object"},
          {"description", description},
          {"additionalProperties", false},
          {"properties", Json::object()}};
}

// A pattern is its name alone, or a map from it to its settings, or to a list where it is made of patterns.
Json pattern_schema() {
  const Json pattern = {{"$ref", "#/$defs/pattern"}};
  Json kinds = map_schema("the pattern's name, with its settings");
  kinds["minProperties"] = kinds["maxProperties"] = 1;
  for (const PatternKind& kind : pattern_kinds()) {
    Json map = map_schema(kind.meaning), item = pattern;
    if (kind.fields) {
      FieldList list;
      kind.fields(list);
      for (const Field& field : list.sections().front().fields)
        map["properties"][field.key] = field_schema(field);
    } else {
      if (!kind.share.empty())
        item = {{"type", "object"}, {"properties", {{kind.share, Json::object()}, {"pattern", pattern}}}};
      map = {{"type", "array"}, {"description", kind.meaning}, {"items", item}};
    }
    kinds["properties"][kind.name] = map;
  }
  return {{"anyOf", Json::array({Json{{"enum", pattern_names()}}, kinds})}};
}

}  // namespace

std::string reference_text(const FieldList& list) {
  std::string text;
  for (const FieldList::Section& section : list.sections()) {
    if (!section.key.empty())
      text += fmt::format("\n{}: {}{}\n{}", section.key, section.meaning,
                          section.required ? " (required)" : "", section.fields.empty() ? "" : "\n");
    for (const Field& field : section.fields) text += field_text(full_name(section, field), field);
  }
  return text;
}

std::string json_schema(const FieldList& list, const std::string& title) {
  Json root = {{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", title}};
  root.update(map_schema("as filigree reads it"));
  for (const FieldList::Section& section : list.sections()) {
    Json* map = &root;
    std::istringstream keys(section.key);
    for (std::string key; std::getline(keys, key, '.');) {
      const bool of_items = key.ends_with("[]");
      Json& value = (*map)["properties"][of_items ? key.substr(0, key.size() - 2) : key];
      map = of_items ? &value["items"] : &value;
      if (!map->contains("type")) *map = map_schema(section.meaning);
    }
    for (const Field& field : section.fields) (*map)["properties"][field.key] = field_schema(field);
  }
  return root.dump(2) + "\n";
}

std::string config_reference() {
  Config config;
  FieldList list;
  fields(list, config);
  return reference_text(list);
}

std::string config_schema() {
  Config config;
  FieldList list;
  std::string base;
  list.path("extends", base, "the config that this one builds on, relative to this file", {.print = false});
  fields(list, config);
  Json root = Json::parse(json_schema(list, "filigree config"));
  root["properties"]["pattern"]["$ref"] = "#/$defs/pattern";
  root["properties"]["pattern"].erase("type");
  root["$defs"]["pattern"] = pattern_schema();
  return root.dump(2) + "\n";
}

}  // namespace filigree
