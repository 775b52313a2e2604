// Text on its way to the terminal: no half characters, no part of a stop string, however the bytes are cut.
#include <gtest/gtest.h>

#include "core/utf8.h"
#include "tests/gradcheck.h"
#include "tests/temporary_folder.h"
#include "train/generate/text_stream.h"

namespace filigree {
namespace {

struct Shown {
  std::string text;
  bool stopped = false;
};

// Pushes the text in random pieces and checks what is shown meanwhile.
Shown show(const std::string& text, std::vector<std::string> stops, Random& random) {
  Shown shown;
  TextStream stream(std::move(stops), [&](const std::string& piece) {
    EXPECT_TRUE(is_utf8(piece)) << "half a character";
    shown.text += piece;
  });
  for (std::size_t at = 0; at < text.size() && !shown.stopped;) {
    const auto n = static_cast<std::size_t>(random.range(1, 3));
    shown.stopped = !stream.push(std::string_view(text).substr(at, n));
    at += n;
  }
  stream.finish();
  return shown;
}

TEST(TextStream, ShowsWholeCharacters) {
  Random random(test_seed(), 61);
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x8C\xB3z";  // a é € 🌳 z
  for (int i = 0; i < 50; ++i) EXPECT_EQ(show(text, {}, random).text, text);
  std::string last;
  WholeCharacters characters;
  EXPECT_EQ(characters.push("\xF0\x9F\x8C"), "");
  EXPECT_EQ(characters.push("\xB3"), "\xF0\x9F\x8C\xB3");
}

TEST(TextStream, ReplacesWhatIsNoText) {
  const auto shown = [](const std::string& bytes) {
    WholeCharacters characters;
    std::string text = characters.push(bytes);
    text += characters.finish();
    return text;
  };
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(shown("a\x80z"), "a" + r + "z");                 // a continuation without a lead
  EXPECT_EQ(shown("\xC3z"), r + "z");                        // a lead without its continuation
  EXPECT_EQ(shown("\xC0\xAF"), r + r);                       // overlong
  EXPECT_EQ(shown("\xED\xA0\x80"), r + r + r);               // a surrogate
  EXPECT_EQ(shown("\xF4\x90\x80\x80"), r + r + r + r);       // above U+10FFFF
  EXPECT_EQ(shown("\xF0\x9F"), r);                           // cut at the end
  EXPECT_EQ(shown("\xF4\x8F\xBF\xBF"), "\xF4\x8F\xBF\xBF");  // U+10FFFF
  EXPECT_EQ(shown("\xE0\xA0\x80\xEE\x80\x80"), "\xE0\xA0\x80\xEE\x80\x80");
}

TEST(TextStream, EndsBeforeTheFirstStopString) {
  Random random(test_seed(), 62);
  for (int i = 0; i < 30; ++i) {
    const auto expect = [&](const std::string& text, const std::vector<std::string>& stops,
                            const std::string& out, bool stopped) {
      const Shown shown = show(text, stops, random);
      EXPECT_EQ(shown.text, out);
      EXPECT_EQ(shown.stopped, stopped);
    };
    expect("one two three", {"two"}, "one ", true);
    expect("one two three", {"three", "two"}, "one ", true);
    expect("one tw", {"two"}, "one tw", false);  // held back, then shown
    expect("aaab", {"aab"}, "a", true);          // the beginning of the stop string comes twice
    expect("abababc", {"ababc"}, "ab", true);
    expect("x\xE2\x82\xACy", {"\xE2\x82\xAC"}, "x", true);
    expect("nothing", {"z", "\n\n"}, "nothing", false);
  }
}

// Against a search in the whole text, on an alphabet of two letters.
TEST(TextStream, AgreesWithASearch) {
  Random random(test_seed(), 63);
  for (int i = 0; i < 300; ++i) {
    const auto word = [&](std::int64_t n) {
      std::string s;
      for (std::int64_t k = 0; k < n; ++k) s += random.coin() ? 'a' : 'b';
      return s;
    };
    std::vector<std::string> stops;
    for (std::int64_t k = random.range(0, 3); k > 0; --k) stops.push_back(word(random.range(1, 6)));
    const std::string text = word(random.range(0, 30));
    StopStrings stream(stops);
    std::string out;
    bool stopped = false;
    std::size_t pushed = 0;
    while (!stopped && pushed < text.size()) {
      stopped = stream.push(std::string_view(text).substr(pushed, 1), out);
      ++pushed;
      // Nothing is shown that a stop string could still take back.
      for (const std::string& stop : stops)
        for (std::size_t n = 1; n < stop.size() && !stopped; ++n)
          EXPECT_TRUE(out.size() <= pushed - std::min(n, pushed) ||
                      !text.substr(0, pushed).ends_with(stop.substr(0, n)))
              << text << " stop " << stop;
    }
    out += stream.finish();
    // The first stop string that becomes complete ends the text.
    std::size_t end = text.size();
    bool found = false;
    for (std::size_t n = 0; n <= text.size() && !found; ++n)
      for (const std::string& stop : stops)
        if (std::string_view(text).substr(0, n).ends_with(stop)) {
          end = std::min(found ? end : n, n - stop.size());
          found = true;
        }
    EXPECT_EQ(stopped, found) << text;
    EXPECT_EQ(out, text.substr(0, end)) << text;
  }
}

TEST(TextStream, RefusesAnEmptyStopString) {
  const std::string text = error_text(ErrorKind::usage, [] { StopStrings({"a", ""}); });
  EXPECT_NE(text.find("stop string is empty"), std::string::npos) << text;
}

}  // namespace
}  // namespace filigree
