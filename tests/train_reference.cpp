// `filigree help config` and the schema know every key that a config may have, and a new setting is known to
// all: reading, printing, comparing, hashing, reference and schema.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "attention/patterns.h"
#include "train/config/config.h"
#include "train/config/reference.h"
#include "train/config/tree.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// "train.lr" of every value of a tree, but for the insides of patterns and tasks.
void add_keys(const YamlNode& node, const std::string& path, std::vector<std::string>& keys) {
  for (const auto& [key, value] : node.entries) {
    const std::string name = path.empty() ? key.scalar : path + "." + key.scalar;
    if (value.is_map() && name != "pattern" && name != "data.task")
      add_keys(value, name, keys);
    else
      keys.push_back(name);
  }
}

// What a schema finds wrong with a tree; of JSON schema only what ours use.
std::string problem(const Json& schema, const YamlNode& node, const Json* whole = nullptr) {
  if (!whole) whole = &schema;
  if (schema.contains("$ref"))
    return problem(whole->at(Json::json_pointer(schema["$ref"].get<std::string>().substr(1))), node, whole);
  if (schema.contains("anyOf")) {
    for (const Json& choice : schema["anyOf"])
      if (problem(choice, node, whole).empty()) return "";
    return "is none of the choices";
  }
  if (schema.contains("enum") && std::ranges::none_of(schema["enum"], [&](const Json& word) {
        return (word.is_string() ? word.get<std::string>() : word.dump()) == node.scalar;
      }))
    return "is not one of the words: " + node.scalar;
  if (!schema.contains("type")) return "";
  const Json types = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
  const auto may_be = [&](const char* type) { return std::ranges::count(types, Json(type)) > 0; };
  if (node.is_map()) {
    if (!may_be("object")) return "is a map";
    if (!schema.contains("properties")) return "";
    for (const auto& [key, value] : node.entries) {
      if (!schema["properties"].contains(key.scalar)) return "has an unknown key, " + key.scalar;
      const std::string inner = problem(schema["properties"][key.scalar], value, whole);
      if (!inner.empty()) return key.scalar + " " + inner;
    }
    return "";
  }
  if (node.is_sequence()) {
    if (!may_be("array")) return "is a list";
    for (const YamlNode& item : node.items)
      if (const std::string inner = problem(schema["items"], item, whole); !inner.empty()) return inner;
    return "";
  }
  if (may_be("string")) return "";
  if (may_be("boolean")) return node.scalar == "true" || node.scalar == "false" ? "" : "is no boolean";
  if (!may_be("integer") && !may_be("number")) return "is a single value";
  const Json value = Json::parse(node.scalar, nullptr, false);
  if (!value.is_number()) return "is no number: " + node.scalar;
  const double number = value.get<double>();
  if (may_be("integer") && number != std::floor(number)) return "is no integer";
  if (schema.contains("minimum") && number < schema["minimum"]) return "is below the minimum";
  if (schema.contains("maximum") && number > schema["maximum"]) return "is above the maximum";
  if (schema.contains("exclusiveMinimum") && number <= schema["exclusiveMinimum"]) return "is too small";
  if (schema.contains("exclusiveMaximum") && number >= schema["exclusiveMaximum"]) return "is too large";
  return "";
}

std::vector<fs::path> example_configs() {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::recursive_directory_iterator(FILIGREE_SOURCE_DIR "/configs"))
    if (entry.path().extension() == ".yaml") paths.push_back(entry.path());
  return paths;
}

TEST(Reference, KnowsEveryKeyThatAConfigPrints) {
  const std::string text = "\n" + config_reference();
  const Json schema = Json::parse(config_schema());
  EXPECT_EQ(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
  int n_configs = 0;
  for (const fs::path& path : example_configs()) {
    if (parse_yaml_file(path).find("axes") || load_pattern_file(path)) continue;
    const YamlNode tree = load_config(path).to_yaml();
    std::vector<std::string> keys;
    add_keys(tree, "", keys);
    for (const std::string& key : keys)
      EXPECT_NE(text.find("\n" + key + " "), std::string::npos) << key << " of " << path;
    EXPECT_EQ(problem(schema, tree), "") << path;
    ++n_configs;
  }
  EXPECT_GE(n_configs, 3);
}

TEST(Reference, TheSchemaAcceptsTheExamplesAndNamesMistakes) {
  const Json schema = Json::parse(config_schema());
  for (const fs::path& path : example_configs()) {
    const YamlNode tree = parse_yaml_file(path);
    if (tree.find("axes")) continue;  // sweeps
    EXPECT_EQ(problem(schema, tree), "") << path;
  }
  for (const char* mistake :
       {"modle: {}", "model: {dims: 3}", "model: {norm: layer}", "model: {dim: 0}", "model: {dim: wide}",
        "model: {dropout: 1}", "train: {lr: 0}", "train: {betas: 0.9}", "tile: 48", "data: {train: {a: b}}",
        "data: {shuffle: 1}", "causal: 1", "log: 3", "train: {groups: 1}",
        "train: {groups: [{names: a, lr: 1}]}", "train: {groups: [{lr_factor: -1}]}"})
    EXPECT_NE(problem(schema, parse_yaml(mistake, "m")), "") << mistake;
}

TEST(Reference, TheSchemaKnowsThePatternsAndTheirSettings) {
  const Json schema = Json::parse(config_schema());
  const auto problem_of = [&](const std::string& pattern) {
    return problem(schema, parse_yaml("pattern: " + pattern, "p"));
  };
  std::vector<std::string> patterns = {"full",
                                       "{local: {window: 4, dilation: 2}}",
                                       "{global: {positions: [0, 7]}}",
                                       "{random: {keys: 3, per_head: true}}",
                                       "{block: {file: layout.h5}}",
                                       "{learned_layout: {budget: 0.1, strides: [2, 4]}}"};
  for (const PatternKind& kind : pattern_kinds())
    if (!kind.example.empty()) patterns.emplace_back(kind.example);
  EXPECT_GE(patterns.size(), 12u);
  for (const std::string& pattern : patterns) EXPECT_EQ(problem_of(pattern), "") << pattern;
  for (const char* mistake :
       {"ful", "[full]", "{ful: {}}", "{local: 4}", "{local: {windw: 4}}", "{local: {window: 0}}",
        "{random: {keys: 3, per_head: 1}}", "{block: {size: 4, pairs: [0, 1]}}", "{union: full}",
        "{union: [{ful: {}}]}", "{heads: [full]}", "{heads: [{count: 2, pattern: {local: {windw: 4}}}]}",
        "{heads: [{layers: 2, pattern: full}]}", "{learned_layout: {budget: 2}}"})
    EXPECT_NE(problem_of(mistake), "") << mistake;
}

TEST(Reference, SaysDefaultRangeAndUse) {
  const std::string text = config_reference();
  for (const char* part :
       {"\ntrain.lr                        required                    number, above 0\n",
        "\ntrain.min_lr                    lr / 10                     number, at least 0\n",
        "    used with schedule: wsd\n",
        "\nmodel.n_heads                   required                    integer, 1 to ",
        "\ntile                            64                          integer, 16, 32, 64, 128 (tokens)\n",
        "      rms_norm ", "\ntrain: how it is trained (required)\n"})
    EXPECT_NE(text.find(part), std::string::npos) << part;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 110u) << line;
  EXPECT_NE(text.find("\ntrain.groups[].lr_factor"), std::string::npos);
  EXPECT_EQ(problem(Json::parse(config_schema()),
                    parse_yaml("train: {groups: [{names: [a, b], lr_factor: 2}, {names: c}]}", "g")),
            "");
  const Json lr = Json::parse(config_schema())["properties"]["train"]["properties"]["lr"];
  EXPECT_EQ(lr["type"], "number");
  EXPECT_EQ(lr["exclusiveMinimum"], 0);
  const Json model = Json::parse(config_schema())["properties"]["model"];
  EXPECT_EQ(model["additionalProperties"], false);
  EXPECT_EQ(model["properties"]["norm"]["enum"], Json::parse(R"(["layer_norm", "rms_norm"])"));
  EXPECT_EQ(model["properties"]["norm"]["default"], "layer_norm");
}

// A struct to which a setting is added: a member and a line.
struct Before {
  std::int64_t depth = 2;
};
void fields(Fields& f, Before& b) {
  f.integer("depth", b.depth, between(1, 9), "below the surface", {.unit = "m"});
}
struct After {
  std::int64_t depth = 2;
  double width = 0.5;
};
void fields(Fields& f, After& a) {
  f.integer("depth", a.depth, between(1, 9), "below the surface", {.unit = "m"});
  f.number("width", a.width, above(0), "from bank to bank", {.unit = "m"});
}

template <class Struct>
Struct read(const std::string& text) {
  const YamlNode node = parse_yaml(text, "s.yaml");
  MapReader map(node, "");
  Struct s;
  FieldReader reader(map);
  fields(reader, s);
  reader.done();
  return s;
}
template <class Struct>
YamlNode print(const std::string& text, FieldPrinter::Values values = FieldPrinter::Values::all) {
  Struct s = read<Struct>(text);
  FieldPrinter printer(values);
  fields(printer, s);
  return printer.take();
}

TEST(Reference, ASettingThatIsAddedIsKnownToAll) {
  EXPECT_THROW(read<Before>("width: 3"), Error);
  EXPECT_EQ(read<After>("width: 3").width, 3);
  EXPECT_EQ(to_yaml(print<Before>("depth: 3")), "depth: 3\n");
  EXPECT_EQ(to_yaml(print<After>("depth: 3")), "depth: 3\nwidth: 0.5\n");
  EXPECT_EQ(differences(print<After>("width: 3"), print<After>("width: 4")),
            std::vector<std::string>{"width: 3 / 4"});
  const auto counted = [](const std::string& text) {
    return print<After>(text, FieldPrinter::Values::counted);
  };
  EXPECT_NE(counted("width: 3"), counted("width: 4"));
  const auto describe = [](auto s) {
    FieldList list;
    fields(list, s);
    return std::pair(reference_text(list), Json::parse(json_schema(list, "t"))["properties"]);
  };
  const auto [text_before, schema_before] = describe(Before());
  const auto [text_after, schema_after] = describe(After());
  EXPECT_EQ(text_before.find("width"), std::string::npos);
  EXPECT_NE(text_after.find("number, above 0 (m)\n    from bank to bank\n"), std::string::npos) << text_after;
  EXPECT_FALSE(schema_before.contains("width"));
  EXPECT_EQ(schema_after["width"]["default"], 0.5);
  EXPECT_EQ(schema_after["depth"], schema_before["depth"]);
}

}  // namespace
}  // namespace filigree
