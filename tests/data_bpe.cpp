// Byte-level BPE: encoding against the definition, decoding, special tokens, borders, tokenizers in files.
#include <gtest/gtest.h>

#include <chrono>

#include "core/parallel.h"
#include "data/bpe_tokenizer.h"
#include "data/open_data.h"
#include "data/prepare.h"
#include "tests/bpe_helpers.h"
#include "tests/data_helpers.h"

namespace filigree {
namespace {

using Ids = std::vector<std::uint32_t>;

Ids encode(const Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

// The definition, without any speed: merge the lowest rank, the leftmost of equals, again and again.
Ids encode_word_slowly(const BpeModel& model, std::string_view word) {
  std::vector<std::string> parts;
  for (const char c : word) parts.push_back(to_byte_alphabet(std::string(1, c)));
  const auto id_of = [&](const std::string& token) {
    return static_cast<std::uint32_t>(std::find(model.vocab.begin(), model.vocab.end(), token) -
                                      model.vocab.begin());
  };
  if (model.ignore_merges)
    if (const auto whole = id_of(to_byte_alphabet(word)); whole < model.vocab.size()) return {whole};
  for (;;) {
    std::size_t best_rank = model.merges.size(), best = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i)
      for (std::size_t rank = 0; rank < best_rank; ++rank)
        if (model.vocab[model.merges[rank].first] == parts[i] &&
            model.vocab[model.merges[rank].second] == parts[i + 1]) {
          best_rank = rank;
          best = i;
        }
    if (best_rank == model.merges.size()) break;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  Ids ids;
  for (const std::string& part : parts) ids.push_back(id_of(part));
  return ids;
}

Ids encode_slowly(const BpeModel& model, std::string_view text) {
  Ids ids;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = word_end(model.splitting, text, begin);
    for (const std::uint32_t id : encode_word_slowly(model, text.substr(begin, end - begin)))
      ids.push_back(id);
    begin = end;
  }
  return ids;
}

TEST(Bpe, EncodesAsDefined) {
  TortureText random(test_seed());
  for (int trial = 0; trial < 30; ++trial) {
    BpeModel model = random_model(random, 60, trial % 2 ? Splitting::gpt2 : Splitting::llama3);
    model.ignore_merges = random.below(2) == 0;
    const BpeTokenizer tokenizer(model);
    for (int i = 0; i < 20; ++i) {
      const std::string text = random.text(random.below(40));
      EXPECT_EQ(encode(tokenizer, text), encode_slowly(model, text)) << testing::PrintToString(text);
    }
    // Words around the length at which the way of merging changes.
    for (const std::size_t length : {2, 24, 25, 31, 32, 33, 34, 64, 200}) {
      std::string word(length, 'a');
      for (char& c : word) c = static_cast<char>('a' + random.below(3));
      EXPECT_EQ(encode(tokenizer, word), encode_slowly(model, word)) << word;
      EXPECT_EQ(encode(tokenizer, word), encode_slowly(model, word)) << word;  // from the cache
    }
  }
}

TEST(Bpe, IgnoreMergesTakesAWordThatIsAToken) {
  // With these merges "abc" becomes a + bc, although abc is a token.
  BpeModel model = make_model({"b c", "a b", "ab c"});
  const auto id = [&](const char* token) {
    return static_cast<std::uint32_t>(std::find(model.vocab.begin(), model.vocab.end(), token) -
                                      model.vocab.begin());
  };
  EXPECT_EQ(encode(BpeTokenizer(model), "abc"), (Ids{'a', id("bc")}));
  model.ignore_merges = true;
  EXPECT_EQ(encode(BpeTokenizer(model), "abc"), (Ids{id("abc")}));
}

TEST(Bpe, EveryByteStringRoundTrips) {
  TortureText random(test_seed());
  for (int trial = 0; trial < 40; ++trial) {
    const BpeTokenizer tokenizer(random_model(random, 50, trial % 2 ? Splitting::gpt2 : Splitting::llama3));
    std::string bytes(random.below(3000), '\0');
    for (char& c : bytes) c = static_cast<char>(random.below(256));
    const std::string text = random.text(500);
    for (const std::string& s : {bytes, text, bytes + text}) {
      const Ids ids = encode(tokenizer, s);
      EXPECT_EQ(tokenizer.decode(ids), s);
      std::int64_t n_bytes = 0;
      for (const std::uint32_t id : ids) n_bytes += tokenizer.n_bytes(id);
      EXPECT_EQ(n_bytes, std::ssize(s));
    }
  }
}

TEST(Bpe, AddedTokensAreFoundBeforeTextIsSplit) {
  const BpeTokenizer tokenizer(make_model({"a b"}, Splitting::gpt2,
                                          {{"<|endoftext|>", 0, true, false},
                                           {"<|mask|>", 0, true, false},
                                           {"<|m", 0, false, false},
                                           {"ab!", 0, false, true},
                                           {"b!<", 0, false, false}}));
  const std::uint32_t end = 257, mask = 258, m = 259, ab = 260, b = 261;
  EXPECT_EQ(tokenizer.separator(), end);
  EXPECT_EQ(tokenizer.mask(), mask);
  EXPECT_EQ(tokenizer.vocab_size(), 262);
  EXPECT_EQ(encode(tokenizer, "<|endoftext|>ab<|mask|>"), (Ids{end, 256, mask}));
  EXPECT_EQ(encode(tokenizer, "<|mas<|m"), (Ids{m, 'a', 's', m}));  // the longest, else a shorter one
  EXPECT_EQ(encode(tokenizer, "ab!"), (Ids{ab}));
  EXPECT_EQ(encode(tokenizer, "ab!<"), (Ids{'a', b}));  // what is not normalized comes first
  EXPECT_EQ(encode(tokenizer, " <|endoftext|> "), (Ids{' ', end, ' '}));
  EXPECT_EQ(tokenizer.decode(Ids{end, ab, mask, m, 'x', 99999}), "ab!<|mx");
  EXPECT_EQ(tokenizer.n_bytes(end), 0);
  EXPECT_EQ(tokenizer.n_bytes(ab), 3);
  EXPECT_EQ(tokenizer.n_bytes(99999), 0);
}

TEST(Bpe, TheSeparatorIsTheOneOfGpt2OrLlama3) {
  const auto separator = [](const std::vector<std::string>& specials) -> std::string {
    std::vector<AddedToken> added;
    for (const std::string& special : specials) added.push_back({special, 0, true, false});
    const BpeTokenizer tokenizer(make_model({}, Splitting::llama3, added));
    return tokenizer.separator() ? specials[*tokenizer.separator() - 256] : "none";
  };
  EXPECT_EQ(separator({"<|end_of_text|>", "<|begin_of_text|>", "<|endoftext|>"}), "<|endoftext|>");
  EXPECT_EQ(separator({"<|end_of_text|>", "<|begin_of_text|>"}), "<|begin_of_text|>");
  EXPECT_EQ(separator({"[MASK]", "<|end_of_text|>"}), "<|end_of_text|>");
  EXPECT_EQ(separator({"[MASK]"}), "none");
}

// Text in pieces that end at borders has the ids of the whole, in one thread or several.
TEST(Bpe, PiecesAndThreadsChangeNothing) {
  TortureText random(test_seed());
  for (const Splitting rule : {Splitting::gpt2, Splitting::llama3}) {
    BpeModel model = random_model(random, 60, rule);
    for (const char* token : {"a b", "\n\n", " <|"})  // that reach over what would be borders
      model.added.push_back(
          {token, static_cast<std::uint32_t>(model.vocab_size()), false, random.below(2) == 0});
    const BpeTokenizer tokenizer(model);
    std::string text;
    while (text.size() < (400 << 10)) text += random.text(1000);
    for (int trial = 0; trial < 200; ++trial) {
      const std::string part = text.substr(random.below(100'000), 2 + random.below(400));
      const std::size_t border = tokenizer.last_border(std::string_view(part).substr(0, part.size() / 2));
      Ids joined = encode(tokenizer, std::string_view(part).substr(0, border));
      for (const std::uint32_t id : encode(tokenizer, std::string_view(part).substr(border)))
        joined.push_back(id);
      EXPECT_EQ(joined, encode(tokenizer, part))
          << "cut at " << border << ": " << testing::PrintToString(part);
    }
    const int threads = n_threads();
    set_n_threads(1);
    const Ids one = encode(tokenizer, text);
    set_n_threads(3);
    EXPECT_EQ(encode(tokenizer, text), one);
    set_n_threads(threads);
    Ids whole;  // never cut
    BpeEncoder encoder(model);
    WordCache cache;
    TextSegmenter(rule, model.added)
        .segment(
            text, [&](std::string_view word) { encoder.encode(word, cache, whole); },
            [&](std::uint32_t id) { whole.push_back(id); });
    EXPECT_EQ(one, whole);
  }
}

TEST(Bpe, TheBorderIsTheLastOneAndSparesAddedTokens) {
  const BpeTokenizer tokenizer(make_model({}, Splitting::gpt2, {{"b c", 0, false, false}}));
  EXPECT_EQ(tokenizer.last_border("a b c"), 1u);
  EXPECT_EQ(tokenizer.last_border("a b d e"), 5u);
  EXPECT_EQ(tokenizer.last_border("abc"), 0u);
  EXPECT_EQ(tokenizer.last_border(""), 0u);
  EXPECT_EQ(tokenizer.last_border(" a"), 0u);
}

TEST(Bpe, AHugeWordIsNotQuadraticSlow) {
  const BpeTokenizer tokenizer(make_model({"a a", "aa aa", "aaaa aaaa", "a b"}));
  std::string text(10 << 20, 'a');
  for (std::size_t i = 0; i < text.size(); i += 1000) text[i] = 'b';
  const auto begin = std::chrono::steady_clock::now();
  const Ids ids = encode(tokenizer, text);
  EXPECT_LT(std::chrono::steady_clock::now() - begin,
            std::chrono::seconds(60));  // quadratic would take hours
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_LT(ids.size(), text.size() / 7);
}

TEST(Bpe, TheByteTokenizerIsATokenizerJson) {
  const auto bytes = make_tokenizer("byte");
  const auto back = tokenizer_from_json(bytes->to_json(), "byte.json");
  EXPECT_EQ(back->name(), "byte");
  EXPECT_EQ(back->to_json(), bytes->to_json());
  std::string other = bytes->to_json();
  other.replace(other.find("<|mask|>"), 8, "<|veil|>");
  expect_error(ErrorKind::data, "byte.json: pre_tokenizer: ByteLevel with use_regex: false alone",
               [&] { tokenizer_from_json(other, "byte.json"); });
}

class BpeFiles : public TemporaryFolder {
 protected:
  std::string at(const std::string& name) { return (folder / name).string(); }
};

TEST_F(BpeFiles, TheNameIsTheContent) {
  const BpeTokenizer tokenizer(make_model({"a b"}));
  put("a.json", tokenizer.to_json());
  put("b.json", "  " + tokenizer.to_json() + "\n");  // the same in other words
  put("c.json", BpeTokenizer(make_model({"a c"})).to_json());
  const auto a = make_tokenizer("bpe:" + at("a.json"));
  EXPECT_TRUE(a->name().starts_with("bpe:") && a->name().size() == 4 + 16) << a->name();
  EXPECT_EQ(a->name(), make_tokenizer("bpe:" + at("b.json"))->name());
  EXPECT_NE(a->name(), make_tokenizer("bpe:" + at("c.json"))->name());
  EXPECT_EQ(tokenizer_from_json(a->to_json(), "x")->name(), a->name());
  expect_error(ErrorKind::data, "none.json", [&] { make_tokenizer("bpe:" + at("none.json")); });
  for (const char* name : {"bpe:", "bpe", "BPE:x", ""})
    expect_error(ErrorKind::usage, "unknown tokenizer", [&] { make_tokenizer(name); });
}

TEST_F(BpeFiles, TokenFilesHoldTheirTokenizer) {
  const BpeTokenizer tokenizer(
      make_model({"a b", "ab c"}, Splitting::gpt2, {{"<|endoftext|>", 0, true, false}}));
  put("t.json", tokenizer.to_json());
  const std::string text = "abc ab\nabc <|endoftext|> xyz";
  put("text", text);
  prepare({at("text")}, at("t.h5"), {.tokenizer = "bpe:" + at("t.json")});
  const auto from_text = all_tokens(open_dataset({at("text")}, InputFormat::text, "bpe:" + at("t.json")));
  std::filesystem::remove(at("t.json"));
  const Dataset dataset = open_dataset({at("t.h5")});
  ASSERT_NE(dataset.tokenizer(), nullptr);
  EXPECT_EQ(dataset.tokenizer()->name(), tokenizer.name());
  EXPECT_EQ(dataset.vocabulary(), (Vocabulary{tokenizer.name(), 259, 258, {}}));
  EXPECT_EQ(all_tokens(dataset), from_text);
  Ids expected = {258};
  tokenizer.encode(text, expected);
  EXPECT_EQ(Ids(from_text.begin(), from_text.end()), expected);
  EXPECT_EQ(document_text(dataset, 0), "abc ab\nabc  xyz");
}

TEST_F(BpeFiles, ATokenFileWithAnotherTokenizerIsDamaged) {
  put("text", "abc");
  prepare({at("text")}, at("t.h5"), {});
  const h5::Reader reader(at("t.h5"));
  h5::Writer writer(at("bad.h5"));
  for (const char* name : {"format", "tokenizer", "tokens_xxhash64", "offsets_xxhash64"})
    writer.attribute("/", name, reader.string("/", name));
  for (const char* name :
       {"version", "vocab_size", "separator", "mask", "n_tokens", "n_documents", "n_bytes"})
    writer.attribute("/", name, reader.integer("/", name));
  writer.text("tokenizer_json", BpeTokenizer(make_model({})).to_json());
  writer.commit();
  expect_error(ErrorKind::data, "its tokenizer is not the one it names",
               [&] { TokenFile file(at("bad.h5")); });
}

// A file larger than one block, whose lines would be cut in the midst of runs of white space.
TEST_F(BpeFiles, BlocksOfAFileChangeNothing) {
  TortureText random(test_seed());
  BpeModel model = random_model(random, 60, Splitting::llama3);
  const BpeTokenizer tokenizer(model);
  std::string text;
  const std::string some = random.text(3000);
  while (text.size() < (9 << 20)) text += some + "\n\n \n" + random.text(20);
  text.erase(std::remove(text.begin(), text.end(), '\0'), text.end());
  put("text", text);
  put("t.json", tokenizer.to_json());
  prepare({at("text")}, at("t.h5"), {.tokenizer = "bpe:" + at("t.json")});
  const auto stored = all_tokens(open_dataset({at("t.h5")}));
  EXPECT_EQ(Ids(stored.begin(), stored.end()), encode(tokenizer, text));
}

}  // namespace
}  // namespace filigree
