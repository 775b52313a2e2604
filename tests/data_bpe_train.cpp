// Training of byte-level BPE: the vocabulary of the HF trainer, whatever the number of threads.
#include <gtest/gtest.h>

#include "core/hash.h"
#include "core/parallel.h"
#include "data/bpe_tokenizer.h"
#include "data/bpe_train.h"
#include "tests/bpe_helpers.h"
#include "tests/data_helpers.h"

namespace filigree {
namespace {

class BpeTrain : public TemporaryFolder {
 protected:
  ~BpeTrain() override { set_n_threads(0); }
  BpeTrainResult train(const BpeTrainOptions& options, const BpeTrainProgress& progress = {}) {
    return train_bpe(find_sources({folder.string()}), options, progress);
  }
  // "a b" for each merge.
  static std::vector<std::string> merges(const BpeModel& model) {
    std::vector<std::string> out;
    for (const auto& [left, right] : model.merges)
      out.push_back(model.vocab[left] + " " + model.vocab[right]);
    return out;
  }
};

TEST_F(BpeTrain, MergesTheMostFrequentPairFirst) {
  // ab 5, then " ab" 4. Of bc two are left, as "abc" is ab+c by then; xy comes twice too, but b is before x.
  // cd once.
  put("text", "ab ab ab ab abc\nbc bc\nxy xy cd");
  const auto result = train({.vocab_size = 1000, .special = {"<|endoftext|>"}});
  EXPECT_EQ(merges(result.model), (std::vector<std::string>{"a b", "\xc4\xa0 ab", "b c", "x y"}));
  EXPECT_EQ(result.model.vocab[0], "<|endoftext|>");
  EXPECT_EQ(result.model.vocab[1], "!");
  EXPECT_EQ(result.model.vocab_size(), 1 + 256 + 4);
  EXPECT_EQ(result.n_words, 10 + 2);  // the line ends are words
  EXPECT_EQ(result.n_distinct_words, 9);
}

// What tokenizers 0.20.3 and 0.23.3 make of this text: BpeTrainer(vocab_size=1000, min_frequency=2,
// special_tokens=["<|endoftext|>"], initial_alphabet=ByteLevel.alphabet()).
TEST_F(BpeTrain, IsTheVocabularyOfTheHfTrainer) {
  std::uint32_t x = 12345;
  std::string text;
  for (int i = 0; i < 60000; ++i) {
    x = (x * 1103515245u + 12345u) & 0x7fffffff;
    text.push_back("aaababaabbabaaa "[(x >> 16) % 16]);
  }
  put("text", text);
  const auto found = merges(train({.vocab_size = 1000, .special = {"<|endoftext|>"}}).model);
  const std::vector<std::string> first = {"a a",   "b aa", "b a",         "baa aa",     "b b",     "baa a",
                                          "aa aa", "b ba", "\xc4\xa0 aa", "\xc4\xa0 a", "b baaaa", "b baa"};
  ASSERT_EQ(found.size(), 743u);
  EXPECT_EQ(std::vector<std::string>(found.begin(), found.begin() + 12), first);
  std::string lines;
  for (const std::string& merge : found) lines += merge + "\n";
  EXPECT_EQ(hex64(xxhash64(lines.data(), lines.size())), "af9c5e1dd82da773");
}

TEST_F(BpeTrain, ThreadsAndFilesChangeNothing) {
  TortureText random(test_seed());
  std::string all;
  for (int i = 0; i < 8; ++i) {
    std::string text;
    for (int j = 0; j < 300; ++j) text += random.text(10) + std::string(random.below(4), ' ') + "abcab";
    text.erase(std::remove(text.begin(), text.end(), '\0'), text.end());
    put(fmt::format("part{}", i), text);
    all += text;
  }
  for (const Splitting rule : {Splitting::gpt2, Splitting::llama3}) {
    const BpeTrainOptions options{
        .vocab_size = 600, .splitting = rule, .special = default_special_tokens(rule)};
    std::string first;
    for (const int threads : {1, 2, 3, 8}) {
      set_n_threads(threads);
      const std::string json = write_tokenizer_json(train(options).model);
      if (first.empty()) first = json;
      EXPECT_EQ(json, first) << threads << " threads";
    }
    const BpeTokenizer tokenizer(read_tokenizer_json(first, "trained"));
    std::vector<std::uint32_t> ids;
    tokenizer.encode(all, ids);
    EXPECT_LT(ids.size(), all.size());
    std::string plain = all;  // special tokens give no text
    for (const std::string& special : options.special)
      for (std::size_t at = 0; (at = plain.find(special, at)) != std::string::npos;)
        plain.erase(at, special.size());
    EXPECT_EQ(tokenizer.decode(ids), plain);
  }
}

TEST_F(BpeTrain, SpecialTokensInTheTextAreNotCounted) {
  put("text", "<|x|>zz<|x|>zz <|x|> q");
  const auto result = train({.vocab_size = 400, .special = {"<|x|>"}});
  EXPECT_EQ(merges(result.model), (std::vector<std::string>{"z z"}));
  // A special token is never made by a merge: it would vanish when decoded.
  std::filesystem::remove(folder / "text");
  put("text", "abab abab xabab xabab");
  const auto no_ab = train({.vocab_size = 400, .special = {"xab", "ab"}});
  for (const std::string& merge : merges(no_ab.model)) EXPECT_NE(merge, "a b");
}

TEST_F(BpeTrain, AHugeWordIsCountedInPieces) {
  std::string word(1 << 20, 'x');
  for (char& c : word) c = static_cast<char>('a' + rng() % 26);
  put("text", word);
  const auto result = train({.vocab_size = 300});
  EXPECT_EQ(result.n_words, (1 << 20) / 4096);
  EXPECT_EQ(result.model.vocab_size(), 300);
}

TEST_F(BpeTrain, ReportsItsProgress) {
  put("text", random_text(200'000));
  std::int64_t counted = 0, merged = 0;
  train({.vocab_size = 400}, [&](const std::string& phase, std::int64_t done, std::int64_t total) {
    std::int64_t& last = phase == "count" ? counted : merged;
    EXPECT_GT(done, last);
    EXPECT_LE(done, total);
    last = done;
  });
  EXPECT_EQ(counted, 200'000);
  EXPECT_EQ(merged, 400 - 256);
}

TEST_F(BpeTrain, RefusesImpossibleOptions) {
  put("text", "abc");
  const auto refused = [&](const BpeTrainOptions& options, const std::string& words) {
    expect_error(ErrorKind::usage, words, [&] { train(options); });
  };
  refused({.vocab_size = 256, .special = {"<|x|>"}}, "it must have 257");
  refused({.vocab_size = 1 << 25}, "to 16777216");
  refused({.min_count = 0}, "least count");
  refused({.special = {""}}, "empty");
  refused({.special = {"<|x|>", "<|x|>"}}, "\"<|x|>\" comes twice");
  refused({.special = {"!"}}, "how the vocabulary writes a byte");
  refused({.special = {"\xc4\xa0"}}, "how the vocabulary writes a byte");
  refused({.special = {"\xff\xff"}}, "UTF-8");
}

}  // namespace
}  // namespace filigree
