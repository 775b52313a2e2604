#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <limits>
#include <random>

#include "core/yaml.h"

using namespace filigree;

namespace {

// The error's message, or "" if f does not throw an Error(usage).
template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::usage);
    return e.hint().empty() ? e.what() : std::string(e.what()) + " | " + e.hint();
  }
  return "";
}

std::string parse_error(std::string_view text) {
  return message_of([&] { parse_yaml(text, "f.yaml"); });
}

bool equal(const YamlNode& a, const YamlNode& b) {
  if (a.kind != b.kind || a.scalar != b.scalar || a.quoted != b.quoted) return false;
  if (a.items.size() != b.items.size() || a.entries.size() != b.entries.size()) return false;
  for (std::size_t i = 0; i < a.items.size(); ++i)
    if (!equal(a.items[i], b.items[i])) return false;
  for (std::size_t i = 0; i < a.entries.size(); ++i)
    if (!equal(a.entries[i].first, b.entries[i].first) || !equal(a.entries[i].second, b.entries[i].second))
      return false;
  return true;
}

std::string repeat(std::string_view unit, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += unit;
  return out;
}

YamlNode scalar(std::string_view text) {
  return parse_yaml(text, "f.yaml");
}

constexpr auto kMin = std::numeric_limits<std::int64_t>::min();
constexpr auto kMax = std::numeric_limits<std::int64_t>::max();

}  // namespace

TEST(Yaml, KeepsStructureAndMarks) {
  const YamlNode root =
      parse_yaml("model:\n  dim: 64\n  'n': \"12\"\nlist: [1, {a: b}, ~]\nempty:\nlast: x\n", "f.yaml");
  ASSERT_TRUE(root.is_map());
  ASSERT_EQ(root.entries.size(), 4u);
  const YamlNode* model = root.find("model");
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->find("dim")->scalar, "64");
  EXPECT_FALSE(model->find("dim")->quoted);
  EXPECT_TRUE(model->find("n")->quoted);
  EXPECT_EQ(model->find("dim")->mark.str(), "f.yaml:2:8");
  EXPECT_EQ(root.entries[1].first.mark.str(), "f.yaml:4:1");
  EXPECT_EQ(root.find("list")->items[1].find("a")->mark.str(), "f.yaml:4:15");
  EXPECT_TRUE(root.find("list")->items[2].is_null());
  EXPECT_TRUE(root.find("empty")->is_null());
  EXPECT_EQ(root.find("empty")->mark.line, 5);
  EXPECT_EQ(root.find("nothing"), nullptr);
  EXPECT_TRUE(parse_yaml("", "f").is_null());
  EXPECT_TRUE(parse_yaml("# only a comment\n", "f").is_null());
  EXPECT_EQ(parse_yaml("\xEF\xBB\xBF"
                       "a: 1\r\nb: 2\r\n",
                       "f")
                .find("b")
                ->mark.str(),
            "f:2:4");
}

TEST(Yaml, RefusesWhatIsNotStrict) {
  const std::pair<std::string, std::string> cases[] = {
      {"a: 1\nb: 2\na: 3\n", "f.yaml:3:1: duplicate key 'a' | it is already set at f.yaml:1:1"},
      {"x:\n  - {k: 1, \"k\": 2}\n", "f.yaml:2:12: duplicate key 'k'"},
      {"a: &x 1\n", "f.yaml:1:4: anchors"},
      {"a: &x [1]\nb: *x\n", "f.yaml:1:4: anchors"},
      {"&a [*a]\n", "f.yaml:1:1: anchors"},
      {"a: *x\n", "f.yaml:1:4: aliases (*name) are not allowed"},
      {"[*.txt]", "quote a text that starts with *"},
      {"&k a: 1\n", "anchors"},
      {"a: !!int 3\n", "f.yaml:1:4: tags"},
      {"a: ! 'x'\n", "f.yaml:1:4: tags"},
      {"a: !local {b: 1}\n", "f.yaml:1:4: tags"},
      {"a: !!null\n", "tags"},
      {"base: {x: 1}\n<<: {y: 2}\n", "f.yaml:2:1: merges"},
      {"[a, b]: 1\n", "f.yaml:1:1: a key must be"},
      {"? {a: 1}\n: 2\n", "f.yaml:1:3: a key must be"},
      {"~: 1\n", "f.yaml:1:1: a key is missing"},
      {": 1\n", "a key is missing"},
      {"a: 1\n---\nb: 2\n", "one document per file"},
      {"a: 1\n...\nb: 2\n", "one document per file"},
      {"a: [1, 2\n", "f.yaml:1:4: not valid YAML: the [ here is never closed | add the missing ]"},
      {"p: {local: {window: 8}\nb: 4\n", "f.yaml:1:4: not valid YAML: the { here is never closed"},
      {"{local: {window: 8}", "f.yaml:1:1: not valid YAML: the { here is never closed | add the missing }"},
      {"# {\n'[{': \"{\\\"[\"\nb: {c: [1, '}]'}\n",
       "f.yaml:3:16: not valid YAML: the } here stands where a ] has to close the [ of f.yaml:3:8"},
      {"a: {b: [1}\n",
       "f.yaml:1:10: not valid YAML: the } here stands where a ] has to close the [ of f.yaml:1:8"},
      {"a: {b: 1}}\n", "f.yaml:1:10: not valid YAML: the } here closes nothing | remove it"},
      {"a: }\n", "f.yaml:1:4: not valid YAML: the } here closes nothing"},
      {"\ta: 1\n", "f.yaml:1:1: not valid YAML: a tab before the first word of a line | indent with spaces"},
      {"m:\n  \td: 1\n", "f.yaml:2:3: not valid YAML: a tab before"},
      {"a: \"x\n", "f.yaml:1:4: not valid YAML: the quote \" is never closed"},
      {"\u00e9: 1\r\na: 'x\r\n", "f.yaml:2:4: not valid YAML: the quote ' is never closed"},
      {"a: 'it''s\n", "the quote ' is never closed"},
      {"a: \"\\\"\n", "the quote \" is never closed"},
      {"a: \"x", "not valid YAML"},
      {"a: \"x\\N\"\n", "f.yaml:1:4: the escapes \\N and \\_ are not supported"},
      {"\"\\_\": 1\n", "f.yaml:1:1: the escapes \\N and \\_ are not supported"},
      {"a: b: c\n", "f.yaml:1:5: not valid YAML"},
      {std::string("a: 1\0b: 2\n", 10), "f.yaml:1:5: control character 0x00"},
      {"a: 1\n\x04"
       "b: 2\n",
       "f.yaml:2:1: control character 0x04"},
      {"a: 1\rb: 2\n", "control character 0x0d"},
      {"a: \xff\n", "f.yaml:1:4: byte 0xff is not valid UTF-8"},
      {"a: \xc0\xaf\n", "not valid UTF-8"},
      {"a: \xed\xa0\x80\n", "not valid UTF-8"},
      {std::string(300, 'k') + ": 1\n", "f.yaml:1:1: a key of 300 bytes"},
  };
  for (const auto& [text, expected] : cases)
    EXPECT_NE(parse_error(text).find(expected), std::string::npos) << text << "\n" << parse_error(text);
}

TEST(Yaml, BoundsDepthSizeAndTime) {
  EXPECT_EQ(parse_error(repeat("[", 32) + repeat("]", 32)), "");
  EXPECT_NE(parse_error(repeat("[", 33) + repeat("]", 33)).find("f.yaml:1:33: nested deeper than 32"),
            std::string::npos);
  const std::string size_error = parse_error("a: " + std::string(1 << 20, 'x'));
  EXPECT_NE(size_error.find("a config has at most 1048576"), std::string::npos) << size_error;

  std::string bomb = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 40; ++i) bomb += fmt::format("a{}: &a{} [*a{}, *a{}]\n", i, i, i - 1, i - 1);
  EXPECT_NE(parse_error(bomb).find("f.yaml:1:5: anchors"), std::string::npos);

  std::string wide;
  for (int i = 0; i < 16384; ++i) wide += fmt::format("key_{}: {}\n", i, i);
  const std::string hostile[] = {
      repeat("[", 100000),
      repeat("{", 100000),
      repeat("- ", 100000),
      repeat("? ", 100000),
      repeat("[a, ", 100000),
      repeat("{a: ", 100000),
      repeat("!a ", 100000),
      repeat("&a ", 100000),
      repeat("'", 200001),
      repeat("a: ", 100000),
      repeat("\n ", 100000),
      repeat("-\n", 100000),
      repeat("[]", 100000),
      repeat("\"a\" ", 100000),
      repeat("#\n", 100000),
      wide,
      std::string("[") + repeat("a,", 300000) + "]",
  };
  for (const std::string& text : hostile) {
    const std::clock_t start = std::clock();  // of this process: other programs may be busy
    parse_error(text);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, 5.0) << text.substr(0, 20);
  }
}

TEST(Yaml, ReadsIntegers) {
  const std::pair<std::string, std::int64_t> good[] = {{"0", 0},
                                                       {"7", 7},
                                                       {"-12", -12},
                                                       {"+5", 5},
                                                       {"-0", 0},
                                                       {"1e3", 1000},
                                                       {"1.5e3", 1500},
                                                       {"-2E+2", -200},
                                                       {"120e-1", 12},
                                                       {"9e18", 9000000000000000000},
                                                       {"0e9", 0},
                                                       {"9223372036854775807", kMax},
                                                       {"-9223372036854775808", kMin}};
  for (const auto& [text, value] : good) EXPECT_EQ(as_integer(scalar(text), "x", kMin, kMax), value) << text;
  const std::pair<std::string, std::string> bad[] = {
      {"017", "f.yaml:1:1: x must be an integer, not '017' | remove the leading zeros"},
      {"1.5e0", "x must be an integer, not '1.5e0'"},
      {"1e-3", "x must be an integer, not '1e-3'"},
      {"3.0", "write 3"},
      {"1_000", "without separators"},
      {"0x10", "x must be an integer, not '0x10'"},
      {"0o17", "must be an integer"},
      {"abc", "must be an integer"},
      {"\"5\"", "not the text \"5\" | remove the quotes"},
      {"true", "must be an integer"},
      {"1.5", "must be an integer, not '1.5'"},
      {"--1", "must be an integer"},
      {"+-1", "must be an integer"},
      {"+", "must be an integer"},
      {"~", "not nothing"},
      {"[1]", "not a list"},
      {"{a: 1}", "not a map"},
      {"9223372036854775808",
       "x must be at most 9223372036854775807, not '9223372036854775808' | the number is too large"},
      {"99999999999999999999999", "the number is too large"},
      {"1e400", "the number is too large"},
      {"-1e19", "x must be at least -9223372036854775808, not '-1e19' | the number is too small"},
  };
  for (const auto& [text, expected] : bad) {
    const std::string message = message_of([&, t = text] { as_integer(scalar(t), "x", kMin, kMax); });
    EXPECT_NE(message.find(expected), std::string::npos) << text << ": " << message;
  }
  EXPECT_EQ(message_of([] { as_integer(scalar("9"), "tile", 1, 8); }),
            "f.yaml:1:1: tile must be between 1 and 8, not '9'");
  EXPECT_EQ(message_of([] { as_integer(scalar("0"), "steps", 1, kMax); }),
            "f.yaml:1:1: steps must be at least 1, not '0'");
}

TEST(Yaml, ReadsNumbersBooleansAndTexts) {
  const std::pair<std::string, double> good[] = {{"1e-3", 1e-3},    {"0.1", 0.1}, {"3", 3},
                                                 {"-2.5E+2", -250}, {".5", 0.5},  {"1.", 1},
                                                 {"+0.25", .25},    {"0", 0}};
  for (const auto& [text, value] : good) EXPECT_EQ(as_number(scalar(text), "x", -1e9, 1e9), value) << text;
  for (const char* text : {"nan", ".nan", "inf", "-.inf", "1e", "e5", ".", "1.2.3", "01.5", "0x1p3", "1,5",
                           "1e999", "1_0.0", "'1'", "~", "[]", "1 2"})
    EXPECT_NE(message_of([&] { as_number(scalar(text), "x", -1e308, 1e308); }), "") << text;
  EXPECT_EQ(message_of([] { as_number(scalar("1.5"), "dropout", 0, 1); }),
            "f.yaml:1:1: dropout must be between 0 and 1, not '1.5'");

  EXPECT_TRUE(as_bool(scalar("true"), "x"));
  EXPECT_FALSE(as_bool(scalar("false"), "x"));
  for (const char* text : {"yes", "True", "1", "on", "'true'", "~"})
    EXPECT_NE(message_of([&] { as_bool(scalar(text), "x"); }).find("x must be true or false"),
              std::string::npos);

  EXPECT_EQ(as_string(scalar("runs/a"), "x"), "runs/a");
  EXPECT_EQ(as_string(scalar("'12'"), "x"), "12");
  EXPECT_EQ(as_string(scalar("''"), "x"), "");
  for (const char* text : {"12", "1e3", "true", "~", "[a]", ".nan", "0x1F", "017"})
    EXPECT_NE(message_of([&] { as_string(scalar(text), "x"); }).find("x must be a text"), std::string::npos)
        << text;
}

TEST(Yaml, MapReaderRefusesWhatNobodyAskedFor) {
  const YamlNode node = parse_yaml("lr: 1e-3\nstpes: 5\n", "f.yaml");
  MapReader reader(node, "train");
  EXPECT_EQ(reader.number("lr", 0, 1), 1e-3);
  EXPECT_EQ(reader.integer("steps", 1, 10, 7), 7);
  EXPECT_EQ(message_of([&] { reader.done(); }),
            "f.yaml:2:1: unknown key 'train.stpes' | did you mean 'steps'?");
  EXPECT_EQ(message_of([&] { MapReader(node, "train").integer("steps", 1, 10); }),
            "f.yaml:2:1: unknown key 'train.stpes' | did you mean 'steps'?");
  EXPECT_EQ(message_of([&] { reader.string("out"); }), "f.yaml:1:1: train.out is missing | add 'out:'");

  const YamlNode other = parse_yaml("zzz: 1\n", "f.yaml");
  MapReader far(other, "");
  far.boolean("shuffle", true);
  far.string("out", "x");
  EXPECT_EQ(message_of([&] { far.done(); }), "f.yaml:1:1: unknown key 'zzz' | known keys: shuffle, out");

  // A key of another section, by its name or one near it; a name that is near here comes first.
  const std::vector<std::string> all = {"train.steps", "model.type", "data.type", "data.seq_len"};
  const auto elsewhere = [&](const char* text) {
    const YamlNode wrong = parse_yaml(text, "f.yaml");
    return message_of([&] {
      MapReader here(wrong, "");
      here.boolean("seed", true);
      here.done(all);
    });
  };
  EXPECT_EQ(elsewhere("steps: 1\n"), "f.yaml:1:1: unknown key 'steps' | did you mean 'train.steps'?");
  EXPECT_EQ(elsewhere("stepz: 1\n"), "f.yaml:1:1: unknown key 'stepz' | did you mean 'train.steps'?");
  EXPECT_EQ(elsewhere("context: 1\n"), "f.yaml:1:1: unknown key 'context' | did you mean 'data.seq_len'?");
  EXPECT_EQ(elsewhere("type: 1\n"),
            "f.yaml:1:1: unknown key 'type' | did you mean 'model.type' or 'data.type'?");
  EXPECT_EQ(elsewhere("sed: 1\n"), "f.yaml:1:1: unknown key 'sed' | did you mean 'seed'?");
  EXPECT_EQ(elsewhere("zzz: 1\n"), "f.yaml:1:1: unknown key 'zzz' | known keys: seed");

  const YamlNode misspelt = parse_yaml("budgt: 1\n", "f.yaml");
  const MapReader either(misspelt, "p");
  EXPECT_EQ(message_of([&] {
              either.refuse_misspelt({"tiles", "budget"});
            }),
            "f.yaml:1:1: unknown key 'p.budgt' | did you mean 'budget'?");
  either.refuse_misspelt({"tiles"});

  const YamlNode choice = parse_yaml("norm: rmsnorm\n", "f.yaml");
  MapReader model(choice, "model");
  EXPECT_EQ(
      message_of([&] {
        model.choice("norm", {"layer_norm", "rms_norm"}, "layer_norm");
      }),
      "f.yaml:1:7: model.norm must be one of layer_norm, rms_norm, not 'rmsnorm' | did you mean 'rms_norm'?");

  EXPECT_NE(message_of([] {
              const YamlNode list = scalar("[1]");
              MapReader(list, "train");
            }).find("f.yaml:1:1: train must be a map"),
            std::string::npos);
  const YamlNode nothing;
  MapReader empty(nothing, "train");
  EXPECT_EQ(empty.string("out", "runs"), "runs");
  empty.done();
}

TEST(Yaml, SuggestsTheNearest) {
  const std::vector<std::string> known = {"window", "dilation", "n_heads", "n_kv_heads", "lr"};
  EXPECT_EQ(nearest("widnow", known), "window");
  EXPECT_EQ(nearest("Window", known), "window");
  EXPECT_EQ(nearest("n-heads", known), "n_heads");
  EXPECT_EQ(nearest("nheads", known), "n_heads");
  EXPECT_EQ(nearest("lt", known), "lr");
  EXPECT_EQ(nearest("xy", known), "");
  EXPECT_EQ(nearest("temperature", known), "");
  EXPECT_EQ(nearest("", known), "");
  // By what other programs call it, where that is known here.
  EXPECT_EQ(nearest("gpu", {"cpu", "auto", "cuda"}), "cuda");
  EXPECT_EQ(nearest("learning-rate", known), "lr");
  EXPECT_EQ(nearest("gpu", {"cpu"}), "cpu");
  EXPECT_EQ(nearest(std::string(1 << 19, 'w'), known), "");
}

TEST(Yaml, FileErrorsNameTheFile) {
  EXPECT_NE(message_of([] {
              parse_yaml_file("/nonexistent/x.yaml");
            }).find("/nonexistent/x.yaml: cannot be opened"),
            std::string::npos);
  EXPECT_NE(message_of([] { parse_yaml_file("/tmp"); }).find("/tmp: is a folder"), std::string::npos);
  const std::string path = ::testing::TempDir() + "filigree_yaml_test.yaml";
  std::ofstream(path) << "a: 1\na: 2\n";
  EXPECT_NE(message_of([&] { parse_yaml_file(path); }).find(path + ":2:1: duplicate key"), std::string::npos);
  std::filesystem::remove(path);
}

// --- writing ---

namespace {

using Random = std::mt19937_64;
int below(Random& rng, int n) {
  return static_cast<int>(rng() % static_cast<unsigned>(n));
}

std::string random_text(Random& rng) {
  static const char* const pieces[] = {
      "a",    "B",  "7",   "_",   "-", " ", ":",    "#", ", ", "'",  "\"",   "\\",  "\n",     "\t",    "[",
      "}",    "~",  "&",   "*",   "!", "%", "true", "é", "漢", "😀",  "0x",   "1e",  "|",      "\x01",  ">",
      "\x7f", "<<", "...", "---", "?", "@", ".",    "/", "=",  "\r", "null", "017", "\u2028", "\u0085"};
  std::string out;
  for (int n = below(rng, 6); n >= 0; --n) out += pieces[below(rng, std::size(pieces))];
  return below(rng, 20) == 0 ? "" : below(rng, 30) == 0 ? repeat(out, 50) : out;
}

YamlNode random_tree(Random& rng, int depth) {
  switch (below(rng, depth > 0 ? 8 : 5)) {
    case 0:
      return YamlNode::make(random_text(rng));
    case 1:
      return YamlNode::make(static_cast<std::int64_t>(rng()) >> below(rng, 64));
    case 2:
      return YamlNode::make(std::ldexp(static_cast<double>(rng() >> 11), below(rng, 600) - 350));
    case 3:
      return YamlNode::make(below(rng, 2) == 0);
    case 4:
      return YamlNode();
    case 5: {
      YamlNode list = YamlNode::make_sequence();
      for (int n = below(rng, 6); n > 0; --n) list.items.push_back(random_tree(rng, depth - 1));
      return list;
    }
    default: {
      YamlNode map = YamlNode::make_map();
      for (int n = below(rng, 6); n > 0; --n) {
        const std::string key = random_text(rng);
        map.set(key.size() <= 256 ? key : "long", random_tree(rng, depth - 1));
      }
      return map;
    }
  }
}

}  // namespace

TEST(Yaml, WritesReadably) {
  const char* text =
      "model:\n  type: decoder\n  dim: 64\n"
      "pattern: {union: [{local: {window: 64}}, {global: {tokens: 2}}]}\n"
      "out: \"a: b\"\nseed: \"17\"\nnone: null\nlist: []\n";
  YamlNode tree = parse_yaml(text, "f");
  EXPECT_EQ(to_yaml(tree), std::string("model: {type: decoder, dim: 64}\n") + std::string(text).substr(33));
  EXPECT_EQ(to_yaml(YamlNode::make_map()), "{}\n");
  EXPECT_EQ(to_yaml(YamlNode::make(0.1)), "0.1\n");
  EXPECT_EQ(to_yaml(YamlNode::make("017")), "\"017\"\n");
  EXPECT_EQ(to_yaml(YamlNode::make("*.txt")), "\"*.txt\"\n");
}

TEST(Yaml, RandomTreesRoundTrip) {
  const std::uint64_t seed = std::random_device{}();
  for (std::uint64_t i = 0; i < 3000; ++i) {
    Random rng(seed + i);
    YamlNode tree = random_tree(rng, 5);
    const std::string text = to_yaml(tree);
    const YamlNode back = parse_yaml(text, "f");
    ASSERT_TRUE(equal(tree, back)) << "seed " << seed + i << "\n" << text << "\nagain\n" << to_yaml(back);
  }
}

TEST(Yaml, DoublesRoundTripExactly) {
  const std::uint64_t seed = std::random_device{}();
  Random rng(seed);
  for (int i = 0; i < 5000; ++i) {
    const double value = std::bit_cast<double>(rng());
    if (!(std::abs(value) < 1.7e308)) continue;
    const YamlNode node = parse_yaml(to_yaml(YamlNode::make(value)), "f");
    ASSERT_EQ(as_number(node, "x", -1.7e308, 1.7e308), value) << "seed " << seed;
  }
}

// Whatever the bytes, the answer is a tree or an Error, and a tree survives being written and read again.
TEST(Yaml, MutatedDocumentsNeverCrash) {
  static const std::string corpus[] = {
      "extends: base.yaml\nmodel:\n  type: decoder\n  dim: 64\n  n_heads: 4\ntrain: {lr: 1e-3, betas: [0.9, "
      "0.95]}\n",
      "pattern: {heads: [{count: 4, pattern: {local: {window: 64}}}, {count: 1, pattern: full}]}\n# "
      "comment\n",
      "text: |\n  some\n   block\n\nfold: >-\n  more\n  text\nq: 'it''s'\nd: \"a\\n\\x41\\u00e9\"\n",
      "a: &x [1, 2]\nb: *x\n<<: *x\n? [k]\n: v\n--- !!map\nc: !t d\n...\n%YAML 1.2\n",
      "- - a\n  - b\n-\n  k: v\n  l:\n  - m\n- {x: [y, {z: ~}], 'w': \"v\"}\n",
  };
  static const std::string pieces = "[]{}:,-?!&*#|>'\"%@`~<\n\t \\=0";
  const std::uint64_t seed = std::random_device{}();
  int trees = 0, errors = 0;
  for (std::uint64_t i = 0; i < 8000; ++i) {
    Random rng(seed + i);
    std::string text = corpus[below(rng, std::size(corpus))];
    for (int edits = 1 + below(rng, 6); edits > 0; --edits) {
      const std::size_t at = rng() % (text.size() + 1);
      const std::size_t count = std::min<std::size_t>(below(rng, 12), text.size() - at);
      switch (below(rng, 4)) {
        case 0:
          text.insert(at, 1, pieces[rng() % pieces.size()]);
          break;
        case 1:
          text.erase(at, count);
          break;
        case 2:
          text.insert(rng() % (text.size() + 1), std::string(text, at, count));
          break;
        default:
          text.insert(at, 1, static_cast<char>(rng()));
      }
    }
    SCOPED_TRACE(fmt::format("seed {}", seed + i));
    try {
      const YamlNode tree = parse_yaml(text, "f");
      ++trees;
      const YamlNode back = parse_yaml(to_yaml(tree), "g");
      ASSERT_EQ(to_yaml(back), to_yaml(tree)) << text;
    } catch (const Error& e) {
      ++errors;
      ASSERT_EQ(e.kind(), ErrorKind::usage);
      ASSERT_TRUE(std::string_view(e.what()).starts_with("f:")) << e.what() << "\n" << text;
    }
  }
  EXPECT_GT(trees, 100);
  EXPECT_GT(errors, 100);
}
