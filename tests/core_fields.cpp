// One description of a struct's settings serves reading, printing, comparing, hashing and lists of keys.
#include <gtest/gtest.h>

#include <cmath>

#include "core/fields.h"

namespace filigree {

enum class Shape { flat, round };
template <>
inline constexpr Word kWords<Shape>[] = {{"flat", "without a rim"}, {"round", "with a rim"}};

namespace {

struct Plate {
  double width = 0;
  Shape shape = Shape::flat;
  std::int64_t rim = 0;
  int shelf = 1;
  bool used = false;
  double chips = 0;
  std::optional<std::int64_t> price;
  std::string name, folder;
  std::int64_t feet = 4;
};

void fields(Fields& f, Plate& p) {
  f.number("width", required(p.width), above(0), "from side to side", {.unit = "cm"});
  f.word("shape", p.shape, "the form of its edge");
  const Use round = with("shape", p.shape, Shape::round);
  f.integer("rim", {p.rim, std::llround(p.width / 10)}, at_least(0), "height of the rim",
            {.unit = "cm", .default_text = "width / 10", .use = round});
  f.integer("shelf", p.shelf, between(1, 9), "the shelf that it lies on", {.counts_as = YamlNode::make(1)});
  f.boolean("used", p.used, "somebody ate from it");
  const Use used{p.used, "with used: true", "by a plate that is new", ""};
  f.number("chips", p.chips, fraction(), "the share of its edge that is chipped", {.use = round && used});
  f.integer("price", p.price, at_least(1), "if it is known");
  f.section("marks", "written on it", false, [&] {
    f.text("name", p.name, "of its maker");
    f.path("folder", p.folder, "where its picture is", {.print = !p.folder.empty()});
    f.integer("feet", p.feet, one_of({1, 2, 4}), "below it");
  });
}

Plate read(const std::string& text) {
  const YamlNode node = parse_yaml(text, "p.yaml");
  Plate plate;
  MapReader map(node, "");
  FieldReader reader(map, {"marks.feet"});
  fields(reader, plate);
  reader.done();
  return plate;
}

YamlNode print(Plate plate, FieldPrinter::Values values = FieldPrinter::Values::all) {
  FieldPrinter printer(values);
  fields(printer, plate);
  return printer.take();
}

std::string message_of(const std::string& text) {
  try {
    read(text);
  } catch (const Error& e) {
    return e.hint().empty() ? e.what() : std::string(e.what()) + " | " + e.hint();
  }
  return "accepted";
}

TEST(Fields, ReadsAndPrintsWhatIsUsed) {
  const Plate flat = read("width: 20");
  EXPECT_EQ(to_yaml(print(flat)),
            "width: 20\nshape: flat\nshelf: 1\nused: false\nmarks: {name: \"\", feet: 4}\n");
  const Plate full = read(
      "{width: 25, shape: round, shelf: 3, used: true, chips: 0.5, price: 12, marks: {name: a b, folder: "
      "c}}");
  EXPECT_EQ(full.rim, 3) << "rounded from 2.5";
  EXPECT_EQ(to_yaml(print(full)),
            "width: 25\nshape: round\nrim: 3\nshelf: 3\nused: true\nchips: 0.5\nprice: 12\n"
            "marks: {name: \"a b\", folder: c, feet: 4}\n");
  EXPECT_EQ(print(read(to_yaml(print(full)))), print(full));
  EXPECT_EQ(read("{width: 25, shape: round, rim: 0}").rim, 0);
  EXPECT_EQ(word(full.shape), "round");
}

TEST(Fields, TreesCompareWithoutTheirMarks) {
  EXPECT_EQ(parse_yaml("{a: [1, b]}", "x"), parse_yaml("a:\n  - 1\n  - b\n", "y"));
  EXPECT_NE(parse_yaml("a: 1", "x"), parse_yaml("a: \"1\"", "x"));
  EXPECT_EQ(parse_yaml("a: b c", "x"), parse_yaml("a: \"b c\"", "x"));
  EXPECT_NE(parse_yaml("a: {}", "x"), parse_yaml("a: []", "x"));
  EXPECT_NE(parse_yaml("a: {b: 1, c: 2}", "x"), parse_yaml("a: {c: 2, b: 1}", "x"));
}

TEST(Fields, WhatDoesNotCountIsPrintedAlike) {
  const auto counted = [](const std::string& text) {
    return print(read(text), FieldPrinter::Values::counted);
  };
  EXPECT_EQ(counted("{width: 1, shelf: 7}"), counted("width: 1"));
  EXPECT_NE(counted("{width: 1, price: 7}"), counted("width: 1"));
}

TEST(Fields, EveryMistakeIsNamedWhereItStands) {
  const std::pair<const char*, const char*> mistakes[] = {
      {"{}", "p.yaml:1:1: width is missing | add 'width:'"},
      {"widht: 3", "p.yaml:1:1: unknown key 'widht' | did you mean 'width'?"},
      {"width: 0", "p.yaml:1:8: width must be above 0"},
      {"width: -1", "p.yaml:1:8: width must be at least 0, not '-1'"},
      {"{width: 1, shape: rond}",
       "p.yaml:1:19: shape must be one of flat, round, not 'rond' | did you mean 'round'?"},
      {"{width: 1, rim: 3}", "p.yaml:1:12: rim is not used by shape: flat | remove it, or set shape: round"},
      {"{width: 1, rim: null}", "accepted"},
      {"{width: 1, shape: round, chips: 0}",
       "p.yaml:1:26: chips is not used by a plate that is new | remove it"},
      {"{width: 1, used: true, chips: 0}",
       "p.yaml:1:24: chips is not used by shape: flat | remove it, or set "
       "shape: round"},
      {"{width: 1, shape: round, used: true, chips: 1}", "p.yaml:1:45: chips must be below 1"},
      {"{width: 1, shelf: 10}", "p.yaml:1:19: shelf must be between 1 and 9, not '10'"},
      {"{width: 1, price: 0}", "p.yaml:1:19: price must be at least 1, not '0'"},
      {"{width: 1, used: 1}", "p.yaml:1:18: used must be true or false, not '1'"},
      {"{width: 1, feet: 1}", "p.yaml:1:12: unknown key 'feet' | did you mean 'marks.feet'?"},
      {"{width: 1, marks: {feet: 3}}", "p.yaml:1:26: marks.feet must be one of 1, 2, 4, not 3"},
      {"{width: 1, marks: {foot: 3}}",
       "p.yaml:1:20: unknown key 'marks.foot' | known keys: name, folder, feet"},
      {"{width: 1, marks: {feet: 3}, shelfs: 1}",
       "p.yaml:1:30: unknown key 'shelfs' | did you mean 'shelf'?"},
      {"{width: 1, marks: 3}", "p.yaml:1:19: marks must be a map of 'key: value' lines, not '3'"},
  };
  for (const auto& [text, expected] : mistakes) EXPECT_EQ(message_of(text), expected) << text;
}

TEST(Fields, AListHasEverySettingUsedOrNot) {
  FieldList list;
  Plate plate;
  fields(list, plate);
  EXPECT_EQ(list.keys(), (std::vector<std::string>{"width", "shape", "rim", "shelf", "used", "chips", "price",
                                                   "marks.name", "marks.folder", "marks.feet"}));
  const Field& chips = list.sections()[0].fields[5];
  EXPECT_EQ(chips.notes.use.where, "with shape: round, with used: true");
  EXPECT_EQ(range_text(chips.range), "at least 0, below 1");
  EXPECT_EQ(range_text(list.sections()[0].fields[3].range), "1 to 9");
  EXPECT_EQ(range_text(list.sections()[1].fields[2].range), "1, 2, 4");
}

}  // namespace
}  // namespace filigree
