// How text is cut into words: the classes of characters, the two rules, and where text may be cut.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/utf8.h"
#include "data/unicode_classes.h"
#include "data/word_splitter.h"
#include "tests/bpe_helpers.h"

namespace filigree {
namespace {

using namespace std::string_literals;
using Pieces = std::vector<std::string>;

Pieces split(Splitting rule, std::string_view text) {
  Pieces words;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = word_end(rule, text, begin);
    if (end <= begin || end > text.size()) {
      ADD_FAILURE() << "a word from " << begin << " to " << end << " of " << text.size();
      break;
    }
    words.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

TEST(UnicodeClasses, KnowEveryGeneralCategory) {
  const auto expect = [](CharClass expected, std::initializer_list<char32_t> code_points) {
    for (const char32_t c : code_points) EXPECT_EQ(char_class(c), expected) << fmt::format("U+{:04X}", +c);
  };
  expect(CharClass::letter,
         {U'A', U'z', U'\u00e9', U'\u01c5', U'\u02b0', U'\u05d0', U'\u4e00'});        // Lu Ll Lt Lm Lo
  expect(CharClass::number, {U'0', U'\u0967', U'\u2167', U'\u00bd', U'\U0001f100'});  // Nd Nl No
  expect(CharClass::other, {U'\u0301', U'\u0903', U'\u20dd'});                        // Mn Mc Me
  expect(CharClass::other, {U'_', U'-', U'(', U')', U'\u00ab', U'\u00bb', U'!'});     // Pc Pd Ps Pe Pi Pf Po
  expect(CharClass::other, {U'+', U'$', U'^', U'\u00a9', U'\U0001f600'});             // Sm Sc Sk So
  expect(CharClass::space, {U' ', U'\u00a0', U'\u3000', U'\u2028', U'\u2029'});       // Zs Zl Zp
  expect(CharClass::space, {U'\t', U'\n', U'\v', U'\f', U'\r', U'\u0085'});           // Cc, some
  expect(CharClass::other,
         {1, 0x1c, 0x7f, 0x200b, 0x200d, 0xfeff, 0xe000, 0x378, 0xffff, 0x10ffff});  // Cc Cf Co Cn
  expect(CharClass::other, {0x110000, kInvalid});
  // New in Unicode 15, 15.1 and 16, and unassigned even there.
  expect(CharClass::letter, {0x1e4d0, 0x2ebf0, 0x1c89});
  expect(CharClass::number, {0x1d2c0, 0x16d70});
  expect(CharClass::other, {0x1c8b, 0x2ee5e});
  std::array<int, 4> sizes{};
  for (char32_t c = 0; c < 0x110000; ++c) ++sizes[static_cast<std::size_t>(char_class(c))];
  EXPECT_EQ(sizes, (std::array<int, 4>{0x110000 - 141028 - 1911 - 25, 141028, 1911, 25}));
}

TEST(UnicodeClasses, DecodeAllOfUtf8AndNothingElse) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    const std::string text = utf8(c);
    const Utf8Char got = decode_utf8(text, 0);
    ASSERT_EQ(got.code_point, c);
    ASSERT_EQ(got.n_bytes, text.size());
  }
  for (const std::string& bad :
       {"\x80"s, "\xbf"s, "\xc0\x80"s, "\xc1\xbf"s, "\xc3"s, "\xc3("s, "\xe0\x9f\xbf"s, "\xe4\xbd"s,
        "\xed\xa0\x80"s, "\xed\xbf\xbf"s, "\xf0\x8f\xbf\xbf"s, "\xf0\x9f\x91"s, "\xf4\x90\x80\x80"s,
        "\xf5\x80\x80\x80"s, "\xff"s}) {
    EXPECT_EQ(decode_utf8(bad, 0).code_point, kInvalid) << testing::PrintToString(bad);
    EXPECT_EQ(decode_utf8(bad, 0).n_bytes, 1u);
    EXPECT_FALSE(is_utf8("a" + bad));
  }
  EXPECT_TRUE(is_utf8("na\xc3\xafve \xf0\x9f\x91\xa9"));
}

TEST(WordSplitter, SplitsByHandAsTheExpressionsDo) {
  const std::vector<std::pair<Pieces, Pieces>> table = {
      // gpt2, llama3
      {{"Hello", ",", " world", "!", " It", "'s", " 2024", "."},
       {"Hello", ",", " world", "!", " It", "'s", " ", "202", "4", "."}},
      {{"we", "'ll", " they", "'ve", " I", "'m", " you", "'d", " can", "'t", " '", "sure"},
       {"we", "'ll", " they", "'ve", " I", "'m", " you", "'d", " can", "'t", " '", "sure"}},
      {{"WE", "'", "LL", " It", "'", "S", " '", "\xc5\xbfo"}, {"WE", "'LL", " It", "'S", " '", "\xc5\xbfo"}},
      {{"''", "s", " '", "x", " '"}, {"''", "s", " '", "x", " '"}},
      {{"12345", " 1", ",", "234", ".", "56"}, {"123", "45", " ", "1", ",", "234", ".", "56"}},
      {{"a", " ", " b", "  ", " c", "    "}, {"a", " ", " b", "  ", " c", "    "}},
      {{" ", " leading"}, {" ", " leading"}},
      {{"tab", "\t", "word", "\t", "\t", "word"}, {"tab", "\tword", "\t", "\tword"}},
      {{"line", "\n", "next", "\n", "\n", "last", "\n"}, {"line", "\n", "next", "\n\n", "last", "\n"}},
      {{"a", " \n", " b", "\r\n\r", "\n", "c"}, {"a", " \n", " b", "\r\n\r\n", "c"}},
      {{"end", ".", "\n", "\n", "New", " !!", "\n", " x"}, {"end", ".\n\n", "New", " !!\n", " x"}},
      {{"x", " =", " (", "y", "+", "1", ");", " //", " z"},
       {"x", " =", " (", "y", "+", "1", ");", " //", " z"}},
      {{"\xe4\xbd\xa0\xe5\xa5\xbd", "\xe3\x80\x82", "\xe4\xb8\x96\xe7\x95\x8c"},
       {"\xe4\xbd\xa0\xe5\xa5\xbd", "\xe3\x80\x82\xe4\xb8\x96\xe7\x95\x8c"}},
      {{"na\xc3\xafve", " cafe", "\xcc\x81", " e", "\xcc\x81"},
       {"na\xc3\xafve", " cafe", "\xcc\x81", " e", "\xcc\x81"}},
      {{"\xd9\x85\xd8\xb1\xd8\xad\xd8\xa8\xd8\xa7", " \xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d"},
       {"\xd9\x85\xd8\xb1\xd8\xad\xd8\xa8\xd8\xa7", " \xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d"}},
      {{"\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7", " ok",
        "\xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd"},
       {"\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7", " ok",
        "\xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd"}},
      {{"\xe0\xa5\xa7\xe0\xa5\xa8\xe0\xa5\xa9\xe0\xa5\xaa", " \xe2\x85\xa7",
        " \xc2\xbd\xc2\xb2\xc2\xb3\xc2\xb9"},
       {"\xe0\xa5\xa7\xe0\xa5\xa8\xe0\xa5\xa9", "\xe0\xa5\xaa", " ", "\xe2\x85\xa7", " ",
        "\xc2\xbd\xc2\xb2\xc2\xb3", "\xc2\xb9"}},
      {{"a", "\xc2\xa0", "b", "\xe3\x80\x80", "c", "\xe2\x80\xa8", "d"},
       {"a",
        "\xc2\xa0"
        "b",
        "\xe3\x80\x80"
        "c",
        "\xe2\x80\xa8"
        "d"}},
      {{"\xcd\xb8\xe0\xb8\x80\xef\xbf\xbf", " x"}, {"\xcd\xb8\xe0\xb8\x80\xef\xbf\xbf", " x"}},
      {{"\x00\x01"s, "a", "\x7f"}, {"\x00\x01"s, "a", "\x7f"}},
      {{"\xc4\xb0\xc7\x85\xca\xb0\xd7\x90\xc6\xbb"}, {"\xc4\xb0\xc7\x85\xca\xb0\xd7\x90\xc6\xbb"}},
      {{"_", "a", "_", " $", "b", "$", " \xe2\x82\xac", "c", " \xe2\x88\x91", "d"},
       {"_a", "_", " $", "b", "$", " \xe2\x82\xac", "c", " \xe2\x88\x91", "d"}},
      {{"\xe1\x83\xbd", "0"}, {"\xe1\x83\xbd", "0"}},
      {{" "}, {" "}},
      {{" \n"}, {" \n"}},
      {{"\n"}, {"\n"}},
      {{"\xc2\x85", "\xc2\x85", "x"}, {"\xc2\x85", "\xc2\x85x"}},
      {{"\t", "\xc2\xa0", "x"}, {"\t", "\xc2\xa0x"}},
  };
  for (const auto& [gpt2, llama3] : table) {
    std::string text;
    for (const std::string& word : gpt2) text += word;
    EXPECT_EQ(split(Splitting::gpt2, text), gpt2) << text;
    EXPECT_EQ(split(Splitting::llama3, text), llama3) << text;
  }
}

TEST(WordSplitter, AnInvalidByteIsASymbol) {
  EXPECT_EQ(split(Splitting::gpt2, "a\xff\xfe b\xc3"), (Pieces{"a", "\xff\xfe", " b", "\xc3"}));
  EXPECT_EQ(split(Splitting::llama3, "\xffx \x80y"), (Pieces{"\xffx", " \x80", "y"}));
  EXPECT_EQ(split(Splitting::llama3, "a \xff\n\xf0\x9fx"), (Pieces{"a", " \xff\n", "\xf0\x9f", "x"}));
}

TEST(WordSplitter, CutsTheLongestTextInLinearTime) {
  for (const char* unit : {"a", " ", "\n", " \n", "!", "1", "\xe3\x80\x80", "'", "\xff"}) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    for (const std::string end : {"", "x"})
      for (const Splitting rule : {Splitting::gpt2, Splitting::llama3}) {
        const Pieces words = split(rule, text + end);
        std::string joined;
        for (const std::string& word : words) joined += word;
        EXPECT_EQ(joined, text + end);
      }
  }
}

// A certain border cuts a text into two whose words are those of the whole.
TEST(WordSplitter, CertainBordersHoldForEveryText) {
  TortureText random(test_seed());
  int n_borders = 0;
  for (int trial = 0; trial < 300; ++trial) {
    const std::string text = random.text(static_cast<std::size_t>(random.below(60) + 2));
    for (const Splitting rule : {Splitting::gpt2, Splitting::llama3})
      for (std::size_t at = 1; at < text.size(); ++at) {
        if (!is_certain_border(text, at)) continue;
        ++n_borders;
        Pieces joined = split(rule, std::string_view(text).substr(0, at));
        for (std::string& word : split(rule, std::string_view(text).substr(at)))
          joined.push_back(std::move(word));
        EXPECT_EQ(joined, split(rule, text)) << "cut at " << at << ": " << testing::PrintToString(text);
      }
  }
  EXPECT_GT(n_borders, 300);
}

}  // namespace
}  // namespace filigree
